"""What surrounds a task: all that can keep it from being worked on."""

from attrs import frozen

from dispatcher.directory import Directory


@frozen(kw_only=True)
class Situation:
    rules: Directory  # of its work directory
    working_here: int  # tasks of this directory
    working: int  # tasks of all directories
    max_concurrent_tasks: int  # 0: no limit
    is_directory_full: bool  # as many of its directory are worked on as may be
    is_full: bool  # as many of all directories
    waiters: int  # who would take it
    attempt_seconds: float | None  # how long a task of this directory takes; None: not known
