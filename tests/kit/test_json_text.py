"""Edits of JSON as text: nothing of others is touched, and taking out undoes putting in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_orchestrator.kit.json_text import document, put, take

SERVER = {"command": "x", "args": ["mcp"], "env": {}}
STEPS = ["mcpServers", "ours"]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(st.text(), values, max_size=3)
blanks = st.text(" \t\r\n", max_size=3)


@st.composite
def written(draw: st.DrawFn, content: Any) -> str:
    """Some way to write it down."""
    style: dict[str, Any] = {"indent": draw(st.sampled_from([None, 1, 2, 4, "\t"]))}
    style["ensure_ascii"] = draw(st.booleans())
    text = json.dumps(content, **style)
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return draw(blanks) + text + draw(blanks)


@given(st.data())
def test_taking_out_undoes_putting_in(data: st.DataObject) -> None:
    content = data.draw(objects)
    shape = data.draw(st.sampled_from(["none", "empty", "some"]))
    if shape != "none":
        content["mcpServers"] = {} if shape == "empty" else data.draw(objects)
        content["mcpServers"].pop("ours", None)
    else:
        content.pop("mcpServers", None)
    text = data.draw(written(content))
    with_it = put(text, STEPS, SERVER)
    content.setdefault("mcpServers", {})["ours"] = SERVER
    assert json.loads(with_it) == content
    assert take(with_it, STEPS) == text


@given(st.data())
def test_an_array_takes_at_its_end(data: st.DataObject) -> None:
    there = data.draw(st.none() | st.lists(values, max_size=3))
    content = {
        "hooks": {} if there is None else {"Post": there},
        **data.draw(objects.filter(lambda it: "hooks" not in it)),
    }
    text = data.draw(written(content))
    steps: list[str | int] = ["hooks", "Post", len(there or [])]
    with_it = put(text, steps, SERVER)
    assert json.loads(with_it)["hooks"]["Post"] == [*(there or []), SERVER]
    assert take(with_it, steps) == text


@pytest.mark.parametrize("text", ["{}", "{ }", "{\n}", '{"mcpServers": {}}', '{"mcpServers": {\n  }}', '{"a": 1}\n'])
def test_what_was_empty_is_empty_again(text: str) -> None:
    assert take(put(text, STEPS, SERVER), STEPS) == text


def test_of_a_file_that_holds_nothing_else_nothing_is_left() -> None:
    assert take(document({"mcpServers": {"ours": SERVER}}), STEPS) is None


def test_what_others_put_beside_ours_stays() -> None:
    text = document({"mcpServers": {"ours": SERVER, "theirs": {}}, "more": 1})
    left = take(text, STEPS)
    assert left is not None
    assert json.loads(left) == {"mcpServers": {"theirs": {}}, "more": 1}


def test_it_is_written_as_the_rest_is() -> None:
    text = '{\r\n\t"mcpServers": {\r\n\t\t"a": {}\r\n\t}\r\n}\r\n'
    assert put(text, STEPS, {"b": 1}) == (
        '{\r\n\t"mcpServers": {\r\n\t\t"a": {},\r\n\t\t"ours": {\r\n\t\t\t"b": 1\r\n\t\t}\r\n\t}\r\n}\r\n'
    )


def test_what_is_there_is_replaced_where_it_stands() -> None:
    text = '{"mcpServers": {"ours": [1, {"a": "]}"}], "b": 2}}'
    assert json.loads(put(text, STEPS, 7)) == {"mcpServers": {"ours": 7, "b": 2}}
