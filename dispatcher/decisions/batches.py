"""Many tasks in one message: which of them can be created, and who waits for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

from attrs import evolve

from dispatcher.decisions.creation import Place, make, missing_parents, still_stands
from dispatcher.errors import (
    BatchRefused,
    DependencyCycle,
    DependencyNotFound,
    IdempotencyKeyReused,
    OutOfReach,
    Refusal,
    TaskNotFound,
)
from dispatcher.fields import REF
from dispatcher.messages import Created, CreateMany, Draft
from dispatcher.task import Task

if TYPE_CHECKING:
    from dispatcher.board import Board

Drafts = Sequence[Draft | None]


def create_many(board: Board, many: CreateMany, now: int) -> tuple[Created | Refusal | None, ...]:
    """Raises BatchRefused if it is atomic and anything is wrong with any of them, and IdempotencyKeyReused."""
    drafts = many.drafts
    places = {draft.ref: place for place, draft in enumerate(drafts) if draft and draft.ref}
    standing, gone = _made_before(board, many, now)
    faults = _unknown_parents(board, many, places, standing.keys() | gone) | _cycles(drafts, places)
    faults |= _out_of_reach(many)
    if many.atomic and (faults or None in drafts):
        raise BatchRefused(dict(sorted(faults.items())))
    faults |= {place: TaskNotFound("of this place any more: it was made, and deleted since") for place in gone}
    refused = faults.keys() | {place for place, draft in enumerate(drafts) if draft is None}
    faults |= _orphans(drafts, places, refused, standing.keys())
    new = [place for place, draft in enumerate(drafts) if draft and place not in faults and place not in standing]
    ids = {place: task.task_id for place, task in standing.items()} | {place: board.mint.task_id(now) for place in new}
    made = {place: Created(task, replayed=True) for place, task in standing.items()}
    made |= _make(board, many, new, {ref: ids[place] for ref, place in places.items() if place in ids}, ids, now)
    return tuple(made.get(place) or faults.get(place) for place in range(len(drafts)))


def _made_before(board: Board, many: CreateMany, now: int) -> tuple[dict[int, Task], set[int]]:
    """Of a batch said again, as long as any of its tasks stands for it: the tasks by their places, and the places of
    those that are gone. Behind the digest of the request each task bears its place and a mask of all that were made."""
    found = [task for key in many.idempotency_keys() if (task := board.created_under(key))]
    if not any(still_stands(task, now) for task in found):
        return {}, set()
    tasks: dict[int, Task] = {}
    made = 0
    for task in found:
        digest, *rest = (task.request_digest or "").split(" ")
        if digest != many.request_digest or len(rest) != 2:
            raise IdempotencyKeyReused(task.task_id)
        tasks[int(rest[0])] = task
        made |= int(rest[1], 16)
    return tasks, {place for place in range(len(many.drafts)) if made >> place & 1 and place not in tasks}


def _out_of_reach(many: CreateMany) -> dict[int, Refusal]:
    places = ((place, draft.work_directory) for place, draft in enumerate(many.drafts) if draft)
    return {place: OutOfReach(path) for place, path in places if not many.by.sees(path)}


def _unknown_parents(board: Board, many: CreateMany, places: Mapping[str, int], made: Set[int]) -> dict[int, Refusal]:
    siblings = {REF + ref for ref in places}
    faults: dict[int, Refusal] = {}
    for place, draft in enumerate(many.drafts):
        if draft and place not in made and (missing := missing_parents(board, draft.depends_on, many.by, siblings)):
            faults[place] = DependencyNotFound(missing)
    return faults


def _siblings(draft: Draft, places: Mapping[str, int]) -> set[int]:
    names = (name.removeprefix(REF) for name in draft.depends_on if name.startswith(REF))
    return {places[name] for name in names if name in places}


def _waiting_for(drafts: Drafts, places: Mapping[str, int]) -> dict[int, list[int]]:
    """By place: those that depend on the one there."""
    waiting_for: dict[int, list[int]] = {}
    for place, draft in enumerate(drafts):
        for sibling in _siblings(draft, places) if draft else ():
            waiting_for.setdefault(sibling, []).append(place)
    return waiting_for


def _cycles(drafts: Drafts, places: Mapping[str, int]) -> dict[int, Refusal]:
    """Those that can never run, because they wait for themselves or for others that do."""
    waiting_for = _waiting_for(drafts, places)
    open_ones = {place: _siblings(draft, places) if draft else set() for place, draft in enumerate(drafts)}
    free = [place for place, siblings in open_ones.items() if not siblings]
    while free:
        done = free.pop()
        del open_ones[done]
        for place in waiting_for.get(done, ()):
            open_ones[place].discard(done)
            if not open_ones[place]:
                free.append(place)
    return {place: DependencyCycle() for place in open_ones}


def _orphans(drafts: Drafts, places: Mapping[str, int], refused: Set[int], standing: Set[int]) -> dict[int, Refusal]:
    """Those that depend on one that is refused, directly or not; who is there already does so no more."""
    waiting_for = _waiting_for(drafts, places)
    gone = set(refused)
    todo = list(refused)
    while todo:
        for place in waiting_for.get(todo.pop(), ()):
            if place not in gone and place not in standing:
                gone.add(place)
                todo.append(place)
    orphans: dict[int, Refusal] = {}
    for place in gone - refused:
        if draft := drafts[place]:
            names = enumerate(draft.depends_on)
            orphans[place] = DependencyNotFound({at: name for at, name in names if _place(name, places) in gone})
    return orphans


def _place(name: str, places: Mapping[str, int]) -> int | None:
    return places.get(name.removeprefix(REF)) if name.startswith(REF) else None


def _make(
    board: Board, many: CreateMany, new: list[int], named: Mapping[str, str], ids: Mapping[int, str], now: int
) -> dict[int, Created]:
    drafts = [draft for draft in many.drafts if draft]
    wanted = {name.removeprefix(REF) for draft in drafts for name in draft.depends_on if name.startswith(REF)}
    siblings = frozenset(ids[place] for place in new)
    mask = sum(1 << place for place in ids)
    made = {}
    for place in new:
        draft = many.drafts[place]
        assert draft is not None
        depends_on = tuple(named[name.removeprefix(REF)] if name.startswith(REF) else name for name in draft.depends_on)
        at = Place(ids[place], depends_on, many.by.name, siblings, has_dependants=draft.ref in wanted)
        made[place] = Created(make(board, _under(board, many, place, mask, draft, now), now, at))
    return made


def _under(board: Board, many: CreateMany, place: int, mask: int, draft: Draft, now: int) -> Draft:
    """The draft with its own key: that of the batch, if it is the first one to be made."""
    if many.idempotency_key is None:
        return draft
    first = board.created_under(many.idempotency_key)
    free = first is None or not still_stands(first, now)
    key = many.idempotency_key if free else f"{many.idempotency_key}\n{place}"
    return evolve(draft, idempotency_key=key, request_digest=f"{many.request_digest} {place} {mask:x}")
