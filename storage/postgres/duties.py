"""What one server does for all that share a record. It holds a duty for a while and renews that in time; when it has
not, for it is dead or stopped, another one takes over."""

from asyncio import Event

from storage.postgres.queries import NOW
from storage.postgres.reading import Reader

WEBHOOK = "webhook"
UPKEEP = "upkeep"
HELD_SECONDS = 8  # without being renewed

TAKE = f"""
    insert into duties as duty values ($1, $2, {NOW} + {HELD_SECONDS * 1000})
    on conflict (duty) do update set instance_id = excluded.instance_id, until = excluded.until
    where duty.instance_id = excluded.instance_id or duty.until < {NOW}
    returning duty"""
LAY_DOWN = "delete from duties where instance_id = $1"
IS_HELD = f"select exists (select from duties where duty = $1 and instance_id = $2 and until > {NOW})"


class Duties:
    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self.held = {duty: Event() for duty in (WEBHOOK, UPKEEP)}

    async def take(self, db: Reader) -> None:
        """Renew those that this server has, and take over those that nobody has any more."""
        for duty, held in self.held.items():
            if await db.fetchval(TAKE, duty, self._instance_id):
                held.set()
            else:
                held.clear()

    async def lay_down(self, db: Reader) -> None:
        """Another server may have them at once."""
        await db.execute(LAY_DOWN, self._instance_id)
