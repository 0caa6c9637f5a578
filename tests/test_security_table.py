"""SECURITY.md says which test shows what: each of them is there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TABLE = (TESTS.parent / "SECURITY.md").read_text().partition("## The OWASP")[2].partition("\n## ")[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| API")]


def test_all_ten_risks_are_there_and_each_is_shown_by_tests():
    assert [re.match(r"\| (API\d+) ", row)[1] for row in ROWS] == [f"API{number}" for number in range(1, 11)]
    assert all(len(row.split(" | ")) == 3 and re.search(r"`test_\w+`", row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split()[1])
def test_every_test_named_is_there(row):
    """Each name stands behind that of its file."""
    shown = row.split(" | ")[2]
    content, named = "", re.findall(r"`([\w/]+\.py|test_\w+)`", shown)
    assert len(named) == shown.count("`") / 2
    for name in named:
        if name.endswith(".py"):
            content = (TESTS / name).read_text()
            assert "\ndef test_" in content or "\nasync def test_" in content
        else:
            assert re.search(rf"^(async )?def {name}\(", content, re.MULTILINE), name
