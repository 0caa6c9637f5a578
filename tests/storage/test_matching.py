"""What the record finds for a filter is what the dispatcher means by it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.fields import Priority
from dispatcher.matching import matches
from dispatcher.ports import Change
from dispatcher.record import Filter
from dispatcher.task import Status, Task
from storage.sqlite import journal as sqlite
from tests.dispatcher.world import database
from tests.storage.conftest import ReaderOf

DIRECTORIES = ["/a", "/b", "C:\\a"]
TAGS = ["x", "y", 'say "x"', "\N{PILE OF POO}", "x,y", "1"]
PROMPTS = ["Do it", "äpfel & NÜSSE", "100%_done", "\\"]
WORKERS = ["ann", "Ann", "1"]
TEXTS = ["do", "IT", "ÄPFEL", "nüsse", "%", "_", "\\", "x"]
MOMENTS = [0, 1, 2, 3]


def some(values: Any, least: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), min_size=least, max_size=3, unique=True).map(tuple)


tasks = st.fixed_dictionaries(
    {
        "work_directory": st.sampled_from(DIRECTORIES),
        "prompt": st.sampled_from(PROMPTS),
        "priority": st.sampled_from(Priority),
        "tags": some(TAGS),
        "status": st.sampled_from([Status.WAITING, Status.FAILED, Status.CANCELLED]),
        "worker_id": st.sampled_from([None, *WORKERS]),
        "created_at": st.sampled_from(MOMENTS),
    }
)
filters = st.builds(
    Filter,
    statuses=some(Status),
    work_directories=some(DIRECTORIES),
    priorities=some(Priority),
    tags=some(TAGS),
    tag_mode=st.sampled_from(["all", "any"]),
    worker_ids=some(WORKERS),
    created_after=st.sampled_from([None, *MOMENTS]),
    created_before=st.sampled_from([None, *MOMENTS]),
    text=st.sampled_from([None, *TEXTS]),
)


def task(arrival: int, fields: dict[str, Any]) -> Task:
    always = {"available_at": 0, "updated_at": 0, "max_retries": 0, "timeout_seconds": 1.0}
    ready = fields["status"] is Status.WAITING
    return Task(arrival=arrival, task_id=f"task-{arrival}", ready=ready, **always, **fields)


@given(st.lists(tasks, max_size=8), filters | st.builds(Filter), st.integers(1, 8), st.integers(0, 8))
def test_it_finds_those_that_match_in_a_stretch(
    reader_of: ReaderOf, fields: Any, only: Filter, first: int, last: int
) -> None:
    """In order of arrival, and no others."""
    db = database()
    known = [task(arrival, one) for arrival, one in enumerate(fields, 1)]
    sqlite.commit(db, [Change(None, one, None) for one in known])
    reader = reader_of(db)
    found = reader.matching(only, first, last)
    assert found == [one.task_id for one in known[first - 1 : last] if matches(only, one)]
    assert reader.last_arrival() == len(known)
    db.close()
