"""What may be locked that is no row: each has a name, and PostgreSQL a number for it."""

SLOTS = "slots"  # how many tasks may be worked on in all
SETTINGS = "settings"


def of_key(idempotency_key: str) -> str:
    return f"key {idempotency_key}"


def of_claim(claim_id: str) -> str:
    return f"claim {claim_id}"


def of_directory(work_directory: str) -> str:
    return f"directory {work_directory}"


# Until the end of the transaction, those of $1 by oneself and those of $2 together with others; always in one order.
LOCK = """
    select case when alone then pg_advisory_xact_lock(number) else pg_advisory_xact_lock_shared(number) end
    from (
        select number, bool_or(alone) as alone from (
            select hashtextextended(name, 0) as number, true as alone from unnest($1::text[]) as name
            union all select hashtextextended(name, 0), false from unnest($2::text[]) as name
        ) as wanted group by number order by number
    ) as locks"""
