"""How late the event loop is: whoever asks something of it has to wait that long. And how busy the process."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

BEAT_SECONDS = 0.1
MEMORY_SECONDS = 60  # for so long the worst is remembered, and what was spent
RECENT = 10  # beats; one that was in time among them, and the loop keeps up
LATE_SECONDS = 0.25


class Pulse:
    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._worst: deque[tuple[float, float]] = deque()  # moments and lags, each lag larger than all later ones
        self._spent: deque[tuple[float, float]] = deque()  # moments, and the seconds of a core used up to then

    def beat(self, now: float, late_seconds: float) -> None:
        self._recent.append(late_seconds)
        while self._worst and self._worst[-1][1] <= late_seconds:
            self._worst.pop()
        self._worst.append((now, late_seconds))
        while self._worst[0][0] <= now - MEMORY_SECONDS:
            self._worst.popleft()

    def spend(self, now: float, cpu_seconds: float) -> None:
        """`cpu_seconds`: so many the process has used since its start."""
        self._spent.append((now, cpu_seconds))
        while self._spent[0][0] < now - MEMORY_SECONDS:
            self._spent.popleft()

    @property
    def cpu_percent(self) -> float:
        """Of one core, over the last minute."""
        if len(self._spent) < 2:
            return 0
        (began, before), (now, after) = self._spent[0], self._spent[-1]
        return 100 * (after - before) / (now - began)

    @property
    def lag_seconds(self) -> float:
        return self._recent[-1] if self._recent else 0

    @property
    def worst_seconds(self) -> float:
        """Of the last minute."""
        return self._worst[0][1] if self._worst else 0

    @property
    def keeps_up(self) -> bool:
        """A hiccup is no overload; to be late every time is."""
        return len(self._recent) < RECENT or min(self._recent) < LATE_SECONDS


@asynccontextmanager
async def beating() -> AsyncIterator[Pulse]:
    pulse = Pulse()
    job = asyncio.create_task(_beat(pulse))
    try:
        yield pulse
    finally:
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job


async def _beat(pulse: Pulse) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        pulse.beat(loop.time(), max(0.0, loop.time() - due))
        pulse.spend(loop.time(), time.process_time())
