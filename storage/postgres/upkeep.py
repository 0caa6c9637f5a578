"""What has to be done behind the batches: one server does it for all."""

from collections.abc import Iterable, Iterator

import orjson

from storage.postgres.queries import NOW
from storage.postgres.reading import Reader
from storage.postgres.versions import ADDING_UP, OURS
from storage.tallies import NUMBERS, Key, RowKey, Tally, Total, minutes

ADDITIONS_MAX = 500  # batches added up in one go
LOG_LINES_MAX = 2_000  # removed in one go
FORGOTTEN_SECONDS = 86_400  # a server that has not been seen for so long is struck off

COLUMNS = ("work_directory", "span", "at", *NUMBERS, "waiting", "processing")
TAKE_TURN = f"select pg_try_advisory_xact_lock({OURS}, {ADDING_UP})"
TAKE = """
    delete from additions where number in (select number from additions order by number limit $1) returning tallies"""
DURATIONS = "select waiting, processing from rollups where work_directory = $1 and span = $2 and at = $3 for update"
ADD = f"""
    insert into rollups as old ({", ".join(COLUMNS)})
    values ({", ".join(f"${place}" for place in range(1, len(COLUMNS) + 1))})
    on conflict (work_directory, span, at) do update
    set {", ".join(f"{name} = old.{name} + excluded.{name}" for name in NUMBERS)},
        waiting = coalesce(excluded.waiting, old.waiting), processing = coalesce(excluded.processing, old.processing)"""

LEFT = "select work_directory, arrival from logs_left limit 1"
REMOVE = """
    delete from task_logs where work_directory = $1 and arrival = $2 and number in (
        select number from task_logs where work_directory = $1 and arrival = $2 order by number limit $3)"""
FORGET = "delete from logs_left where work_directory = $1 and arrival = $2"
STRIKE_OFF = f"delete from instances where seen_at < {NOW} - {FORGOTTEN_SECONDS * 1000}"


async def add_up(db: Reader) -> bool:
    """Whether there may be more. Nothing changes, for whoever reads."""
    async with db.transaction():
        if not await db.fetchval(TAKE_TURN):
            return False  # another server does it, which does not know yet that it is no longer its duty
        texts = [row[0] for row in await db.fetch(TAKE, ADDITIONS_MAX)]
        rows = minutes(tallies(texts))
        for key, total in sorted(rows.items()):
            await _join_durations(db, key, total)
        values = [(*key, *it.numbers, it.waiting.to_json(), it.processing.to_json()) for key, it in rows.items()]
        await db.executemany(ADD, values)
    return len(texts) == ADDITIONS_MAX


def tallies(texts: Iterable[str]) -> Iterator[tuple[Key, Tally]]:
    for text in texts:
        for work_directory, minute, *tally in orjson.loads(text):
            yield (work_directory, minute), Tally(*tally)


async def _join_durations(db: Reader, key: RowKey, total: Total) -> None:
    """What is written takes the place of what stands there."""
    if (total.waiting.bins or total.processing.bins) and (row := await db.fetchrow(DURATIONS, *key)):
        total.add_durations(*row)


async def remove_leftovers(db: Reader) -> bool:
    """Of the log of one task that was deleted; whether there may be more."""
    left = await db.fetchrow(LEFT)
    if left is None:
        return False
    removed = await db.execute(REMOVE, *left, LOG_LINES_MAX)
    if int(removed.split()[-1]) < LOG_LINES_MAX:
        await db.execute(FORGET, *left)
    return True


async def strike_off(db: Reader) -> None:
    """Servers that ended without saying so."""
    await db.execute(STRIKE_OFF)
