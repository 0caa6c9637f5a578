"""What is understood of what commands print, and what is not."""

import json
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from task_orchestrator.transcript import LINE_BYTES_MAX, Transcript
from tests.client.agents import (
    CLAUDE,
    CODEX,
    SESSION,
    THREAD,
    claude_init,
    claude_result,
    claude_says,
    printed,
    text,
    tool,
)


def heard(*pieces):
    """The account of the agent, and what it was said to be at."""
    said = []
    transcript = Transcript(lambda: said.append(transcript.account.message))
    for piece in pieces:
        transcript.feed(piece)
    transcript.close()
    return transcript.account, [message for place, message in enumerate(said) if message not in said[:place]]


def of(*lines):
    return heard(printed(lines))[0]


def test_claude_code():
    account, said = heard(printed(CLAUDE))
    assert said == [
        None,
        "turn 1: I'll look at the tests first.",
        "turn 1: Bash pytest -q",
        "turn 2: TodoWrite",
        "turn 2: Edit /srv/app/api.py",
        "turn 3: All 5 tests pass now.",
        "done after 3 turns, 0.1234 USD",
    ]
    assert (account.agent, account.session_id, account.error) == ("claude", SESSION, None)
    assert (account.text, account.turns, account.percent) == ("All 5 tests pass now.", 3, 100)
    usage = {"input_tokens": 27, "cache_creation_input_tokens": 4890, "cache_read_input_tokens": 66_310}
    assert account.facts == {"total_cost_usd": 0.1234, "usage": {**usage, "output_tokens": 1266}}
    assert of(*CLAUDE[:6]).percent == 50


def test_codex():
    account, said = heard(printed(CODEX))
    assert said == [
        None,
        "turn 1: $ bash -lc 'pytest -q'",
        "turn 1: changes api.py",
        "turn 1: docs search",
        "Reconnecting... 1/5",
        "turn 1: All 5 tests pass now.",
        "done after 1 turn",
    ]
    assert (account.agent, account.session_id, account.error) == ("codex", THREAD, None)
    assert (account.text, account.turns, account.percent) == ("All 5 tests pass now.", 1, 100)
    assert account.facts["usage"] == {"input_tokens": 24_763, "cached_input_tokens": 24_448, "output_tokens": 122}
    assert of(*CODEX[:4]).percent == 50


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ([claude_result("API Error: 529 overloaded", is_error=True)], "API Error: 529 overloaded"),
        ([claude_result(None, subtype="error_max_turns")], "error_max_turns"),
        (
            [claude_result("", subtype="error_during_execution", is_error=True, errors=["no", 5, "way"])],
            "error_during_execution: no\nway",
        ),
        ([claude_result(None, is_error=True)], "the agent failed"),
        ([claude_result(is_error=True), claude_result()], None),
    ],
)
def test_how_claude_code_fails(end, error):
    """Whatever the subtype says, and whatever stands where its text should be; what counts is the last result."""
    assert of(*CLAUDE[:-1], *end).error == error


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ([{"type": "turn.failed", "error": {"message": "stream ended"}}], "stream ended"),
        ([{"type": "error", "message": "no credit"}], "no credit"),
        ([{"type": "error", "message": "no credit"}, CODEX[-1]], None),
    ],
)
def test_how_codex_fails(end, error):
    """An error after which it has got on is none."""
    assert of(*CODEX[:-1], *end).error == error


def test_an_agent_that_says_it_all_at_once():
    """`claude -p --output-format json` prints the result alone."""
    account = of(claude_result())
    assert (account.session_id, account.text, account.turns) == (SESSION, "All 5 tests pass now.", 3)
    assert account.facts["total_cost_usd"] == 0.1234


def test_what_an_agent_that_was_sent_out_says_is_not_ours():
    """It is shown, but neither a turn of ours nor our last word nor our list of things to do."""
    todos = [{"content": "a", "status": "completed"}]
    account = of(
        claude_init(),
        claude_says(text("ours"), message="a"),
        claude_says(text("theirs"), tool("TodoWrite", todos=todos), message="b", parent="toolu_1"),
    )
    assert (account.turns, account.text, account.percent, account.message) == (1, "ours", None, "turn 1: TodoWrite")


@pytest.mark.parametrize(
    "line",
    [
        '{"type": "system", "subtype": "started", "session_id": "a"}',
        '{"type": "system", "subtype": "init"}',
        '{"type": "system", "subtype": "init", "session_id": 5}',
        '{"type": "system", "subtype": "init", "session_id": "--help"}',
        '{"type": "system", "subtype": "init", "session_id": "a; rm -rf /"}',
        '{"type": "system", "subtype": "init", "session_id": ""}',
        '{"type": "result", "subtype": "success", "session_id": "a"}',
        '{"type": "result", "is_error": true, "session_id": "a"}',
        '{"type": "assistant", "message": {"content": [{"type": "text", "text": "hi"}]}, "session_id": "a"}',
        '{"type": "thread.started"}',
        '{"type": "turn.completed", "usage": {"input_tokens": 1}, "thread_id": "a"}',
        '[{"type": "thread.started", "thread_id": "a"}]',
        '  "thread_id"  ',
        'log: {"type": "thread.started", "thread_id": "a"}',
        '{"type": "thread.started", "thread_id": "a"} and more',
        '{"level": "info", "session_id": "a", "type": "result", "result": "done", "is_error": "no", "subtype": "x"}',
    ],
)
def test_a_program_with_json_of_its_own_is_no_agent(line):
    """Nor is one whose lines are nearly right; what comes behind them changes nothing."""
    assert heard(line.encode() + b"\n" + printed(CLAUDE[2:-1]))[0] is None


def test_lines_that_are_broken_are_passed_over():
    """Too long, cut off, not UTF-8, nested too deep, of the wrong types: the next good one counts."""
    deep = b'{"type":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    long = b'{"type":"result","subtype":"success","is_error":true,"x":"' + b"x" * LINE_BYTES_MAX + b'"}'
    wrong = [
        {"type": "assistant", "message": {"content": [None, 5, {"type": "text", "text": 5}, {"type": "tool_use"}]}},
        {"type": "assistant", "message": {"content": "text"}},
        {"type": "assistant", "message": None},
        {"type": ["result"], "subtype": {}, "is_error": 1},
        [],
        {"type": "result", "subtype": "success", "is_error": None},
        claude_says(tool("TodoWrite", todos=[None, {}, 5]), tool("Bash", command=5), tool("", x="y")),
    ]
    broken = [deep, long, b'{"type":"result","is_err', b"\xff\xfe", b"{}", b"", b"}{", b'{"n":' + b"9" * 5000 + b"}"]
    noise = b"\n".join(broken) + b"\n" + printed(wrong)
    figures = {"num_turns": -1, "total_cost_usd": "free", "usage": {"a": True, "b": -1, "c d": 1, "e": 2**60, "f": 7}}
    end = printed([claude_result("caf\u00e9 \ud83d", **figures)]).replace(b"caf\\u00e9", b"caf\xe9")
    account, _ = heard(printed([claude_init()]), noise, end, noise)
    assert (account.text, account.error) == ("caf\ufffd \ud83d", None)
    assert account.facts == {"usage": {"f": 7}}
    for numbers in ({"total_cost_usd": True}, {"total_cost_usd": 1e300}, {"total_cost_usd": -1}):
        assert "total_cost_usd" not in of(claude_result(**numbers)).facts


def test_what_is_shown_fits_and_stays_in_one_line():
    account = of(claude_init(), claude_says(text("a\n\tb\0c\x1b[31m" + "x" * 10_000)))
    assert account.message.startswith("turn 1: a b\ufffdc\ufffd[31mxxx")
    assert len(account.message) < 400
    assert account.message.isprintable()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6000), max_size=40), st.sampled_from([CLAUDE, CODEX]), st.booleans())
@example([], CLAUDE, False)
def test_it_does_not_matter_where_the_pieces_are_cut(places, lines, crlf):
    whole = printed(lines).rstrip(b"\n").replace(b"\n", b"\r\n" if crlf else b"\n")
    cuts = [0, *sorted(places), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(cuts)]
    assert heard(*pieces) == heard(whole)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(SESSION),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "subtype", "message", "content", "item", "text", "input", "usage", "result", "error"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([CLAUDE, CODEX]), st.lists(anything | st.tuples(st.integers(0, 8), anything), max_size=5))
def test_nothing_that_an_agent_says_is_an_error(lines, strange):
    """Whole lines of anything, and good ones of which one member is something else."""
    noise = []
    for it in strange:
        if isinstance(it, tuple):
            good = dict(lines[it[0] % len(lines)])
            good[sorted(good)[len(good) // 2]] = it[1]
            noise.append(good)
        else:
            noise.append(it)
    account, _ = heard(printed(lines[:2]), printed(noise), printed(lines))
    assert account.text == "All 5 tests pass now."
    json.dumps(account.facts, allow_nan=False)


def test_of_a_flood_nothing_is_kept():
    """Of twenty thousand lines of an agent, and of one without end."""
    flood = printed([claude_says(tool("Bash", command="ls"))]) * 1000
    transcript = Transcript(lambda: None)
    transcript.feed(printed([claude_init()]))
    tracemalloc.start()
    for _ in range(20):
        transcript.feed(flood)
    for _ in range(400):
        transcript.feed(b"x" * 65_536)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
    transcript.feed(b"\n" + printed([claude_result()]))
    assert transcript.account.text == "All 5 tests pass now."
