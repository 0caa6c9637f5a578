"""A naive server: every task in one list, every question answered by looking through all of it.

It says what the contract says in the plainest words there are, and shares no code with the real one. Time is told
to it by `tick`: before each message, as long as anything is due.
"""

from typing import Any

from attrs import define, field

from dispatcher.fields import UNSET
from dispatcher.messages import (
    Cancel,
    Claim,
    Create,
    CreateMany,
    Delete,
    Drain,
    Edit,
    Held,
    Message,
    Reconfigure,
    Regulate,
    Retry,
    SteerMany,
    Tick,
)
from dispatcher.rules import Rules
from tests.dispatcher.births import create, create_many
from tests.dispatcher.crowds import steer_many
from tests.dispatcher.folders import Folder
from tests.dispatcher.jobs import ENDED, NEVER, Job
from tests.dispatcher.turns import Answered, Parked, serve_all, serve_some, take

DONE = "done"


@define
class Oracle:
    rules: Rules
    told_at_once: int  # children that hear of the end of others in one go
    log_max: tuple[int, int]  # lines and bytes

    jobs: list[Job] = field(factory=list)
    folders: dict[str, Folder] = field(factory=dict)
    parked: list[Parked] = field(factory=list)
    answers: dict[object, Any] = field(factory=dict)  # of parked claims, by their key
    draining: bool = False
    versions: list[tuple[int, str, None]] = field(factory=list)  # of the rules: a line of history for each
    lines: list[tuple[int, str, None]] = field(factory=list)  # about the server itself

    def say(self, key: object, message: Message[Any], now: int) -> Any:
        """The answer, or None if the claim is parked."""
        if not all(self.sees(message, path) for path in _places(message)):
            self._settle(now)
            return "OutOfReach"
        match message:
            case Create():
                answer: Any = create(self, message, now)
            case CreateMany():
                answer = create_many(self, message, now)
            case Claim():
                answer = self._claim(key, message, now)
            case SteerMany():
                answer = steer_many(self, message, now)
            case Regulate():
                answer = self.folder(message.work_directory).regulate(message, now)
            case Reconfigure():
                self.rules = message.rules
                self.versions.append((now, "config.changed", None))
                answer = len(self.versions)
            case Held():
                answer = self._held_by(message)
            case Drain():
                self.lines += [] if self.draining else [(now, "server.draining", None)]
                self.draining, answer = True, DONE
                self._dismiss(list(self.parked))
            case Tick():
                answer = DONE
            case _:
                answer = self.speak_of_one(message, now)
        self._settle(now)
        return answer

    def leave(self, key: object) -> None:
        self.parked = [parked for parked in self.parked if parked.key != key]

    def waiting(self) -> list[Parked]:
        """Whoever waits, anywhere."""
        return self.parked

    def restart(self, now: int) -> list[object]:
        """Whose claims went unanswered: nobody is parked any more. For a while, no lease ends."""
        gone = [parked.key for parked in self.parked]
        self.parked, self.draining = [], False
        for job in self.jobs:
            if job.status == "working":
                job.spare(now + round(self.rules.restart_grace_seconds * 1000))
        return gone

    # Time

    def tick(self, now: int, answered: Answered) -> None:
        while self.is_due(now):
            serve_some(self, now, answered)
            self.round(now)

    def is_due(self, now: int) -> bool:
        return self._brings_more(now) or any(parked.until <= now for parked in self.parked)

    def _brings_more(self, now: int) -> bool:
        """Something is due that may set tasks free."""
        ends = [NEVER if folder.until is None else folder.until for folder in self.folders.values()]
        return min([*(job.due() for job in self.jobs), *ends, NEVER]) <= now

    def round(self, now: int) -> None:
        """What is due now. What this brings about falls due in the next round."""
        for folder in self.folders.values():
            folder.look_at_the_clock(now)
        for job, status, children in self._due_together(now):
            if job.status != status:
                continue  # it has just been cancelled together with one that it waited for
            if job.tell is None:
                job.fall_due(now)
            else:
                self._tell_children(job, children, now)
        self._settle(now)
        self._dismiss([parked for parked in self.parked if parked.until <= now])

    def _due_together(self, now: int) -> list[tuple[Job, str, list[Job]]]:
        """Each with its status and the children it tells, up to where no more of those can be told at once."""
        together = []
        room = self.told_at_once
        for job in sorted(self.jobs, key=lambda job: (job.due(), job.number)):
            if job.due() > now or (job.tell is not None and not room):
                break
            children = self._yet_to_hear(job)[:room]
            together.append((job, job.status, children))
            room -= len(children)
        return together

    def _yet_to_hear(self, job: Job) -> list[Job]:
        waiting = [child for child in self.jobs if child.status == "waiting" and job.id in child.unmet]
        return [child for child in waiting if job.tell is not None and child.number >= job.tell]

    def _tell_children(self, job: Job, children: list[Job], now: int) -> None:
        rest = [child.number for child in self._yet_to_hear(job) if child not in children]
        job.tell = min(rest, default=None)
        for child in children:
            child.hear_of(job, now)

    # Claims

    def _claim(self, key: object, claim: Claim, now: int) -> Any:
        if self.draining:
            return []
        if claim.claim_id:  # said again, it takes the place of the one that still waits
            same = [it for it in self.parked if _name(it.claim) == _name(claim)]
            self._dismiss(same)
        tasks = self._held_as(claim) or take(self, claim, now)
        if tasks or not claim.wait_seconds:
            return tasks
        self.parked.append(Parked(claim, now + claim.wait_seconds * 1000, key))
        return None

    def _held_as(self, claim: Claim) -> list[Any]:
        if not claim.claim_id:
            return []
        held = [
            job for job in self.jobs if job.status == "working" and (job.claim_id, job.worker, job.key) == _name(claim)
        ]
        return [job.summary() for job in held if job.create.work_directory in claim.work_directories]

    def _held_by(self, held: Held) -> list[Any]:
        working = [
            job
            for job in self._working_in(held.work_directory)
            if (job.worker, job.key) == (held.worker_id, held.by.name)
        ]
        return [job.summary() for job in working]

    def _settle(self, now: int) -> None:
        """Whoever waits is served; but while more is due at this moment, `tick` does so, which knows more."""
        for folder in self.folders.values():
            folder.note_drained(len(self._working_in(folder.path)), now)
        if not self._brings_more(now):
            serve_all(self, now)

    def _dismiss(self, parked: list[Parked]) -> None:
        for one in parked:
            self.parked.remove(one)
            self.answers[one.key] = []

    # Directories

    @property
    def has_limits(self) -> bool:
        folders = self.folders.values()
        shut = any(folder.paused or folder.draining or folder.max_working is not None for folder in folders)
        return shut or bool(self.rules.max_concurrent_tasks)

    def folder(self, path: str) -> Folder:
        return self.folders.setdefault(path, Folder(path))

    def _working_in(self, path: str) -> list[Job]:
        return [job for job in self.jobs if job.status == "working" and job.create.work_directory == path]

    # One task

    def ids(self) -> list[str]:
        return [job.id for job in self.jobs if not job.deleted]

    def sees(self, message: Message[Any], path: str) -> bool:
        """As the keys of strategies.CALLERS say."""
        return path in {"ann": ["/a"], "bob": ["/a", "/b"]}.get(message.by.name or "", [path])

    def known_to(self, message: Message[Any]) -> list[str]:
        return [job.id for job in self.jobs if not job.deleted and self.sees(message, job.create.work_directory)]

    def speak_of_one(self, message: Any, now: int) -> Any:
        job = next((job for job in self.jobs if job.id == message.task_id and not job.deleted), None)
        if job is None or not self.sees(message, job.create.work_directory):
            return "TaskNotFound"
        if getattr(message, "if_version", None) == 1 and job.touched:
            return "VersionConflict"
        match message:
            case Cancel():
                answer = self._cancel(job, message, now)
            case Retry():
                answer = self._retry(job, now)
            case Edit():
                answer = self._edit(job, message, now)
            case Delete():
                job.deleted = job.status in ENDED
                return DONE if job.deleted else "InvalidState"
            case _:
                answer = job.hear(message, now, self.rules.require_lease_token, self.log_max)
        return answer or job.summary()

    def _cancel(self, job: Job, cancel: Cancel, now: int) -> Any:
        if job.status not in ("waiting", "failed") and not (job.status == "working" and cancel.force):
            return "InvalidState"
        job.end("cancelled", now, "cancelled", job.error)
        job.reason = cancel.reason
        return None

    def _retry(self, job: Job, now: int) -> Any:
        if job.status != "failed":
            return "InvalidState"
        if not job.retries_left:
            return "RetryLimitReached"
        job.retry(now)
        return None

    def _edit(self, job: Job, edit: Edit, now: int) -> Any:
        restricted = (edit.priority, edit.prompt, edit.max_retries, edit.run_at)
        if any(said is not UNSET for said in restricted) and job.status not in ("waiting", "failed"):
            return "InvalidState"
        job.edit(edit, now)
        return None


def _name(claim: Claim) -> tuple[str | None, str | None, str | None]:
    return claim.claim_id, claim.worker_id, claim.by.name


def _places(message: Message[Any]) -> list[str]:
    match message:
        case Claim():
            return list(message.work_directories)
        case Create() | Regulate():
            return [message.work_directory]
        case _:
            return []
