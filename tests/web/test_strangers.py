"""However many are turned away, few entries tell of them, and none is forgotten."""

import json

from web.access.strangers import KINDS_MAX, REPEAT_SECONDS, Strangers

SECONDS = 3600


def test_a_million_addresses_leave_few_entries_and_every_refusal_is_counted():
    now = [1_000_000]
    strangers, deeds = Strangers(lambda: now[0]), []
    for second in range(SECONDS):
        for n in range(300):
            strangers.note(None, f"{second}.{n}", "UNAUTHORIZED", "no", f"GET /{n % 9}", "id")
        deeds += strangers.due()
        now[0] += 1000
    deeds += strangers.due(all_of_them=True)
    assert strangers.refusals == SECONDS * 300
    assert len(strangers._refused) <= KINDS_MAX + 1
    assert len(deeds) <= (KINDS_MAX + 1) * (SECONDS / REPEAT_SECONDS + 1)
    told = [json.loads(deed.details) for deed in deeds]
    assert sum(it["count"] for it in told) == strangers.refusals
    assert all(len(it["operations"]) <= 5 for it in told)


def test_the_first_is_told_at_once_and_those_after_it_once_a_minute():
    now = [0]
    strangers = Strangers(lambda: now[0])
    told = []
    for second in range(121):
        now[0] = second * 1000
        strangers.note("ann", "::1", "FORBIDDEN", "no", None, "id")
        told += [(second, json.loads(deed.details)["count"]) for deed in strangers.due()]
    assert told == [(0, 1), (60, 60), (120, 60)]
