"""Where tasks may be handed out: limits on how many are worked on at once, and the rules of work directories."""

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from dispatcher.directory import Directory
from dispatcher.task import Status, Task


class Gates:
    """A slot is bound to a lease: it is taken as long as the task is working."""

    def __init__(self, directories: Iterable[Directory], working: Iterable[Task]) -> None:
        self._max_concurrent_tasks = 0
        self._directories: dict[str, Directory] = {}  # those that have rules
        self._working_in = Counter(task.work_directory for task in working)
        self._working = self._working_in.total()
        self._pauses: list[tuple[int, str]] = []  # heap of the ends of pauses; may name pauses that have ended
        self._noted: set[tuple[int, str]] = set()  # the same
        for directory in directories:
            self.lay_down(directory)

    def forget(self) -> None:
        """What was learnt may no longer be so; when pauses end is kept."""
        self._directories.clear()
        self._working_in.clear()
        self._working = 0

    def learn(self, directories: Iterable[tuple[Directory, int]], working: int) -> None:
        """The rules of some directories, and how many tasks are worked on in each, and in all."""
        for rules, working_here in directories:
            self.lay_down(rules)
            self._working_in[rules.work_directory] = working_here
        self._working = working

    def limit(self, max_concurrent_tasks: int) -> None:
        """How many may be worked on from now on, 0 for any number; those that already are more may go on."""
        self._max_concurrent_tasks = max_concurrent_tasks

    def count(self, before: Task | None, after: Task) -> bool:
        """Keep count of who works; true if a slot has become free."""
        change = (after.status is Status.WORKING) - (before is not None and before.status is Status.WORKING)
        if change:
            self._working += change
            self._working_in[after.work_directory] += change
            if not self._working_in[after.work_directory]:
                del self._working_in[after.work_directory]
        return change < 0

    @property
    def full(self) -> bool:
        return 0 < self._max_concurrent_tasks <= self._working

    @property
    def has_limit(self) -> bool:
        return self._max_concurrent_tasks > 0

    def is_open(self, work_directory: str) -> bool:
        rules = self._directories.get(work_directory)
        return rules is None or not (rules.closed or self.is_directory_full(work_directory))

    def is_directory_full(self, work_directory: str) -> bool:
        limit = self.rules(work_directory).max_working
        return limit is not None and self._working_in[work_directory] >= limit

    def working_in(self, work_directory: str) -> int:
        return self._working_in[work_directory]

    def rules(self, work_directory: str) -> Directory:
        return self._directories.get(work_directory) or Directory(work_directory=work_directory)

    def lay_down(self, rules: Directory) -> None:
        before = self.rules(rules.work_directory)
        if rules == Directory(work_directory=rules.work_directory):
            self._directories.pop(rules.work_directory, None)
        else:
            self._directories[rules.work_directory] = rules
        if rules.paused_until not in (None, before.paused_until):
            assert rules.paused_until is not None
            self.note_pause(rules.paused_until, rules.work_directory)

    def note_pause(self, until: int, work_directory: str) -> None:
        """It may be paused until then."""
        if (until, work_directory) not in self._noted:
            self._noted.add((until, work_directory))
            heappush(self._pauses, (until, work_directory))

    def ending_pauses(self, now: int) -> Iterator[str]:
        """The directories whose pauses may have ended."""
        return (work_directory for until, work_directory in self._pauses if until <= now)

    def next_end_of_pause(self) -> int | None:
        return self._pauses[0][0] if self._pauses else None

    def ended_pauses(self, now: int) -> Iterator[Directory]:
        """The directories that have been paused for as long as they were to be."""
        while self._pauses and self._pauses[0][0] <= now:
            paused_until, work_directory = heappop(self._pauses)
            self._noted.discard((paused_until, work_directory))
            if (rules := self.rules(work_directory)).paused_until == paused_until:
                yield rules
