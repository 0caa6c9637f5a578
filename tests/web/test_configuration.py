"""What a change of the settings makes of them, without a server."""

import asyncio
from types import SimpleNamespace

import pytest
from attrs import asdict
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.configuration import ConfigVersion
from dispatcher.errors import Unavailable
from dispatcher.messages import Reconfigure
from dispatcher.rules import Rules
from tests.web.conftest import until
from web import configuration
from web.codec import Fault, Invalid
from web.configuration import Configuration, begin
from web.reconfiguring import CHANGES_MAX, reconfigure
from web.serve import heeding
from web.settings import SETTINGS, Setting, SettingsError
from web.sources import gather, settings_of, settle

RETRIES, MOST, LEVEL = "task.max_task_retries", "task.max_concurrent_tasks", "logging.level"
GIVEN = gather({"log_level": "error"}, {"APP_TASK_MAX_CONCURRENT_TASKS": "5"})
START = Configuration(given=GIVEN, settings=settings_of(GIVEN))

some_changes = st.fixed_dictionaries(
    {},
    optional={
        RETRIES: st.sampled_from([None, 3, 4]),
        MOST: st.sampled_from([None, 5, 6]),
        LEVEL: st.sampled_from([None, "error", "ERROR", "info"]),
        "task.require_lease_token": st.sampled_from([None, False, True]),
    },
)


@given(st.lists(some_changes, max_size=6))
def test_whatever_is_changed_it_can_be_explained_and_taken_back(steps):
    """What is in force follows from what is given and what is set; what tells no difference has none."""
    now, before = START, [START]
    for changes in steps:
        after = now.with_changes(changes)
        assert after.settings == settle(GIVEN, after.runtime)
        assert bool(now.differences(after)) == (after.runtime != now.runtime)
        for key, value in changes.items():
            if value is not None:
                said = value.lower() if isinstance(value, str) else value
                assert SETTINGS[key].of(after.settings) == said
            else:
                assert key not in after.runtime
                assert SETTINGS[key].of(after.settings) == SETTINGS[key].of(START.settings)
        untouched = SETTINGS.keys() - changes.keys()
        assert all(SETTINGS[key].of(after.settings) == SETTINGS[key].of(now.settings) for key in untouched)
        now = after
        before.append(now)
    for version, then in enumerate(before):
        assert not now.as_at(version, then.runtime).differences(then)
    assert now.with_changes(dict.fromkeys(now.runtime)) == START
    assert begin(GIVEN, 0, now.runtime) == (now, [])


def test_a_secret_is_masked_wherever_it_is_told(monkeypatch):
    """Set, changed or taken away, one sees that much and no more."""
    monkeypatch.setattr(Setting, "secret", property(lambda setting: setting.key == "security.api_key"))
    monkeypatch.setitem(SETTINGS, "security.api_key", _reloadable("security.api_key"))
    first = START.with_changes({"security.api_key": "one-secret"})
    second = first.with_changes({"security.api_key": "another-secret"})
    third = second.with_changes({"security.api_key": None})
    told = [START.differences(first), first.differences(second), second.differences(third)]
    assert [change["security.api_key"] for change in told] == [
        {"from": None, "to": "********"},
        {"from": "********", "to": "********"},
        {"from": "********", "to": None},
    ]
    with pytest.raises(Invalid) as refused:
        START.with_changes({"security.api_key": "a secret", RETRIES: -1})
    message = Reconfigure(rules=Rules(), who="ann", changes=told[0], runtime=first.runtime)
    row = ConfigVersion(version=1, at=0, who="ann", reason=None, changes=told[0], runtime=first.runtime)
    assert "secret" not in f"{first} {message} {row} {refused.value}".replace("secret'", "")


def test_a_value_that_may_be_null_is_set_to_null(monkeypatch):
    """So it is taken back by a rollback only."""
    monkeypatch.setitem(SETTINGS, "security.api_key", _reloadable("security.api_key"))
    given = gather({"api_key": "k"}, {})
    start = Configuration(given=given, settings=settings_of(given))
    none = start.with_changes({"security.api_key": None})
    assert (none.settings.security.api_key, none.runtime) == (None, {"security.api_key": None})
    assert none.origin("security.api_key").source == "runtime"
    assert none.as_at(0, {}) == start


def _reloadable(key):
    return Setting(SETTINGS[key].section, SETTINGS[key].field, True)


def test_what_does_not_go_together_is_left_out_at_the_start(monkeypatch):
    """Whichever of them is at fault; what is given stands by itself."""

    def settle_if_few(given, runtime):
        if len(runtime) > 1:
            raise Invalid([Fault("server.port", "does not go with them")])
        return settle(given, runtime)

    monkeypatch.setattr(configuration, "settle", settle_if_few)
    started, faults = begin(GIVEN, 7, {RETRIES: 4, MOST: 6})
    assert (started.settings, started.runtime, started.version) == (START.settings, {}, 7)
    assert faults == [Fault("server.port", "does not go with them")]
    with pytest.raises(SettingsError):
        begin(gather({"port": -1}, {}), 7, {RETRIES: 4})


def test_faults_that_lie_in_none_of_the_changes_bear_their_own_name(monkeypatch):
    def never(given, runtime):
        raise Invalid([Fault(RETRIES, "no"), Fault(MOST, "no")])

    monkeypatch.setattr(configuration, "settle", never)
    with pytest.raises(Invalid) as refused:
        START.with_changes({RETRIES: 4})
    assert [fault.field for fault in refused.value.faults] == [f"changes.{RETRIES}", MOST]


async def test_so_many_changes_wait_and_no_more():
    """A record that hangs must not let them pile up."""
    crowded = SimpleNamespace(errands=set(range(CHANGES_MAX)))
    with pytest.raises(Unavailable):
        await reconfigure(crowded, lambda now: now, "ann")


async def test_a_signal_whose_work_goes_wrong_is_heeded_the_next_time(caplog):
    signal, heeded = asyncio.Event(), []

    async def act():
        heeded.append(True)
        if len(heeded) == 1:
            raise OSError("no such luck")

    async with heeding(signal, act):
        for times in (1, 2):
            signal.set()
            await until(lambda times=times: len(heeded) == times)
    assert "could not be done" in caplog.text


def test_every_setting_knows_where_it_stands():
    assert {setting.section for setting in SETTINGS.values()} == asdict(START.settings).keys()
    secret = [key for key, setting in SETTINGS.items() if setting.secret]
    assert secret == ["database.encryption_key", "security.api_key", "security.jwt_secret", "webhooks.secret"]
    nulls = [key for key, setting in SETTINGS.items() if setting.may_be_null]
    assert [key for key in nulls if "jwt" not in key] == [
        "server.tls_cert",
        "server.tls_key",
        "database.encryption_key_file",
        "database.encryption_key",
        "security.api_key",
        "security.initial_key_file",
        "rate_limit.enabled",
        "logging.format",
        "logging.file",
        "webhooks.url",
        "webhooks.secret",
    ]
    assert START.origin(LEVEL).name == "--log-level"
    assert START.origin(MOST).name == "APP_TASK_MAX_CONCURRENT_TASKS"
