"""Who was turned away, counted: however many they are and however often they come, few entries tell of them."""

from collections.abc import Sequence

from attrs import define, evolve, field

from dispatcher.audit import Deed
from dispatcher.fields import to_json
from dispatcher.ports import Clock
from web.access.audit_texts import clean
from web.codec import rfc3339

ACCESS = "access"  # the action of whoever was turned away
REPEAT_SECONDS = 60  # the first of a kind is told at once, those after it once in so long, counted
KINDS_MAX = 50  # at a time, by caller, address and code; of any more only their number is told
OPERATIONS_MAX = 5  # named of those that were refused


@define
class _Refused:
    """Of one kind; `number` since they were told the last time."""

    deed: Deed
    due: int
    number: int = 0
    first_at: int = 0
    last_at: int = 0
    operations: list[str] = field(factory=list)


class Strangers:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refused: dict[tuple[str | None, ...], _Refused] = {}
        self.refusals = self.unnamed = 0

    def note(
        self,
        who: str | None,
        address: str | None,
        code: str,
        reason: str,
        operation: str | None,
        request_id: str,
    ) -> None:
        self.refusals += 1
        kind: tuple[str | None, ...] = (who, address, code)
        if kind not in self._refused and len(self._refused) >= KINDS_MAX:
            self.unnamed += 1
            kind, who, address = (None, "others", None), None, None
        now, found = self._clock(), self._refused.get(kind)
        if found is None:
            details = to_json({"reason": clean(reason)})
            deed = Deed(
                at=now,
                who=who,
                address=address,
                action=ACCESS,
                outcome=code,
                request_id=request_id,
                details=details,
            )
            found = self._refused[kind] = _Refused(deed, now)
        found.number += 1
        found.first_at, found.last_at = found.first_at or now, now
        if operation and operation not in found.operations and len(found.operations) < OPERATIONS_MAX:
            found.operations.append(operation)

    def due(self, *, all_of_them: bool = False) -> Sequence[Deed]:
        """What is to be told now."""
        now, deeds = self._clock(), list[Deed]()
        for kind, found in [*self._refused.items()]:
            if not found.number and found.due <= now:
                del self._refused[kind]
            elif found.number and (found.due <= now or all_of_them):
                deeds.append(_told(found))
                found.due, found.number, found.first_at, found.operations = now + REPEAT_SECONDS * 1000, 0, 0, []
        return deeds


def _told(found: _Refused) -> Deed:
    details = to_json(
        {
            "count": found.number,
            "first_at": rfc3339(found.first_at),
            "last_at": rfc3339(found.last_at),
            "operations": found.operations,
        }
    )
    return evolve(found.deed, at=found.last_at, details=f"{found.deed.details[:-1]},{details[1:]}")
