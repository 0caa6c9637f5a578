"""Who is connected to several servers is one list."""

from dispatcher.presence import Presence, Waiting, Worker, together


def seen(worker_id: str, *directories: str, at: int = 0, connection: str = "none") -> Worker:
    return Worker(worker_id=worker_id, work_directories=directories, last_seen_at=at, connection=connection)


def test_a_worker_that_is_known_to_several_is_told_once() -> None:
    """Wherever it was, when it was seen last, how it is connected most closely, and what the record says it holds."""
    here = Presence(workers=(seen("bob", "/b", at=1, connection="poll"), seen("ann", "/a", at=5)))
    there = Presence(workers=(seen("bob", "/a", at=3, connection="stream"), seen("cid", "/c", at=2)))
    ann, bob, cid = together([here, there, Presence()], {"bob": ["2", "1"], "eve": ["3"]})
    assert [it.worker_id for it in (ann, bob, cid)] == ["ann", "bob", "cid"]
    assert (bob.work_directories, bob.working, bob.last_seen_at, bob.connection) == (
        ("/a", "/b"),
        ("1", "2"),
        3,
        "stream",
    )
    assert (ann.working, cid.working) == ((), ())


def test_those_count_who_would_take_a_task_of_the_directory() -> None:
    present = Presence(waiting=(Waiting("/a", (), 2), Waiting("/a", ("x", "y"), 3), Waiting("/b", (), 5)))
    assert present.waiting_in("/a") == 5
    assert present.waiting_in("/a", ()) == 2
    assert present.waiting_in("/a", ("y", "x", "z")) == 5
    assert present.waiting_in("/c") == 0
