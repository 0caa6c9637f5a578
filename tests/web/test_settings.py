"""Where settings come from, and how a mistake in them is named."""

import json
from pathlib import Path

import pytest
from attrs import asdict

from tests.web.conftest import refused_start
from web.codec import structure
from web.settings import Settings, SettingsError
from web.sources import load


@pytest.fixture
def toml(tmp_path):
    """Writes a settings file and returns its path."""

    def write(text):
        file = tmp_path / "settings.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def faults_of(cli=(), environ=(), config=None):
    with pytest.raises(SettingsError) as caught:
        load(dict(cli), dict(environ), config)
    return {fault.field: fault.reason for fault in caught.value.faults}


def test_nothing_needs_to_be_set():
    """The defaults keep their own rules."""
    defaults = load({}, {"PATH": "/bin", "APPLE": "pie"})
    assert defaults == Settings()
    assert structure(json.loads(json.dumps(asdict(defaults))), Settings) == defaults
    assert (defaults.server.host, defaults.server.port) == ("127.0.0.1", 8080)
    assert defaults.database.synchronous == "full"


def test_the_command_line_is_stronger_than_the_environment_than_the_file(toml):
    """Each source shows through where the stronger ones are silent."""
    file = toml('[server]\nport = 1\nhost = "a"\nmax_body_bytes = 2048\n[logging]\nlevel = "error"')
    environ = {"APP_SERVER_PORT": "2", "APP_SERVER_HOST": "b", "APP_TASK_REQUIRE_LEASE_TOKEN": "true"}
    settings = load({"port": 3, "host": None}, environ, file)
    assert (settings.server.port, settings.server.host, settings.server.max_body_bytes) == (3, "b", 2048)
    assert settings.task.require_lease_token is True
    assert settings.logging.level == "error"


def test_short_names_work_and_long_ones_are_stronger():
    """The short names are those everybody knows."""
    short = {
        "DATABASE_URL": "sqlite:///a.db",
        "SERVER_HOST": "0.0.0.0",
        "SERVER_PORT": "1",
        "LOG_LEVEL": "DEBUG",
        "API_SECRET_KEY": "s3cret",
    }
    settings = load({}, short)
    assert settings.database.url == "sqlite:///a.db"
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 1)
    assert (settings.logging.level, settings.security.api_key) == ("debug", "s3cret")
    assert load({}, short | {"APP_SERVER_PORT": "2"}).server.port == 2


def test_every_short_name_has_an_option():
    """Options take text or typed values."""
    settings = load(
        {"host": "h", "port": "1", "database": "sqlite:///a.db", "api_key": "k", "log_level": "warning"}, {}
    )
    assert (settings.server.host, settings.server.port, settings.database.url) == ("h", 1, "sqlite:///a.db")
    assert (settings.security.api_key, settings.logging.level) == ("k", "warning")


@pytest.mark.parametrize(("section", "key"), [(s, k) for s, keys in asdict(Settings()).items() for k in keys])
def test_every_setting_has_its_variable(section, key):
    """A value of the wrong kind shows that the variable is looked at."""
    variable = f"APP_{section}_{key}".upper()
    assert [name.partition("[")[0] for name in faults_of(environ={variable: ""})] == [variable]


def test_only_what_is_in_force_must_be_right(toml):
    """A stronger source mends a weaker one."""
    assert load({"port": 1}, {"SERVER_PORT": "x"}, toml("[server]\nport = 'y'")).server.port == 1


def test_all_faults_are_named_at_once_each_where_it_was_made(toml):
    """Options, variables and keys of the file by the names their author gave."""
    file = toml(
        "servr = 1\nlogging = 5\n[server]\nport = 70000\nprot = 1\n"
        "[database]\ntimeout_seconds = nan\n[task]\nmax_task_retries = true"
    )
    assert faults_of(
        {"log_level": "loud", "database": "oracle://u:pw@h"},
        {"APP_SERVER_MAX_BODY_BYTES": "1_000", "APP_SERVER_PRT": "1", "API_SECRET_KEY": ""},
        file,
    ) == {
        "APP_SERVER_PRT": "unknown variable, did you mean 'APP_SERVER_PORT'?",
        "--database": "must be sqlite:///relative/path.db, sqlite:////absolute/path.db or postgresql://…",
        "APP_SERVER_MAX_BODY_BYTES": "must be an integer",
        "API_SECRET_KEY": "must be printable ASCII without spaces",
        f"server.port in {file}": "must be at most 65535, is 70000",
        f"server.prot in {file}": "unknown field, did you mean 'port'?",
        f"database.timeout_seconds in {file}": "must be a finite number",
        f"task.max_task_retries in {file}": "must be an integer, not a boolean",
        f"logging in {file}": "must be an object, not an integer",
        f"servr in {file}": "unknown field, did you mean 'server'?",
    }


def test_an_option_is_named_as_it_is_typed():
    """Not as Python spells it."""
    assert faults_of({"log_level": "loud"}) == {
        "--log-level": "must be one of debug, info, warning, error, critical",
    }


def test_app_env_names_a_file_in_the_config_directory(tmp_path, monkeypatch):
    """A file given explicitly is stronger, and a file that is named must exist."""
    monkeypatch.chdir(tmp_path)
    assert faults_of(environ={"APP_ENV": "production"}) == {
        str(Path("config/production.toml")): "cannot be read: No such file or directory"
    }
    Path("config").mkdir()
    Path("config/production.toml").write_text("server.port = 1")
    Path("other.toml").write_text("server.port = 2")
    assert load({}, {"APP_ENV": "production"}).server.port == 1
    assert load({}, {"APP_ENV": "production"}, Path("other.toml")).server.port == 2


@pytest.mark.parametrize("name", ["", "../production", "a.b", "Production\n"])
def test_app_env_is_a_plain_name(name):
    """It cannot lead out of the config directory."""
    assert faults_of(environ={"APP_ENV": name, "SERVER_PORT": "x"}) == {
        "APP_ENV": "must be a plain name such as development or production",
        "SERVER_PORT": "must be an integer",
    }


@pytest.mark.parametrize("text", ["[server", "port: 1", b"a = '\xff'", "a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_named(toml, text):
    """The other sources are still looked at."""
    file = toml(text)
    faults = faults_of({"port": -1}, config=file)
    assert faults.pop("--port") == "must be at least 0, is -1"
    assert faults.pop(str(file)).startswith("is not TOML: ")
    assert not faults


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///data/tasks.db", "data/tasks.db"), ("sqlite:////srv/tasks.db", "/srv/tasks.db")],
)
def test_a_database_url_leads_to_a_file(url, path):
    """Three slashes and a relative path, or four for an absolute one."""
    assert load({"database": url}, {}).database.path == Path(path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "tasks.db",
        "sqlite://tasks.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///a/",
        "sqlite:///a?mode=ro",
        "sqlite:///a\n",
        "mysql://u:secret@h/db",
    ],
)
def test_another_database_url_is_refused(url):
    """The reason tells the forms, and never the password."""
    assert faults_of({"database": url}) == {
        "--database": "must be sqlite:///relative/path.db, sqlite:////absolute/path.db or postgresql://…"
    }


def test_the_key_is_not_shown():
    """Settings may be logged."""
    assert "s3cret" not in repr(load({"api_key": "s3cret"}, {}))


def test_the_error_reads_line_by_line():
    """One line per fault, as it is printed before the server gives up."""
    with pytest.raises(SettingsError) as caught:
        load({"port": -1}, {"APP_X": "1"})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("APP_X: unknown variable, did you mean ")
    assert lines[1] == "--port: must be at least 0, is -1"


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"APP_DATABASE_ENCRYPTION_KEY": ""}, "APP_DATABASE_ENCRYPTION_KEY: "),
        ({"APP_DATABASE_ENCRYPTION_KEY": " x"}, "APP_DATABASE_ENCRYPTION_KEY: must be one line of text"),
        ({"APP_DATABASE_ENCRYPTION_KEY": "x\ny"}, "APP_DATABASE_ENCRYPTION_KEY: must be one line of text"),
        (
            {"APP_DATABASE_ENCRYPTION_KEY": "x", "APP_DATABASE_ENCRYPTION_KEY_FILE": "key"},
            "APP_DATABASE_ENCRYPTION_KEY: must not be set with encryption_key_file",
        ),
        (
            {"APP_DATABASE_ENCRYPTION_KEY": "x", "DATABASE_URL": "postgresql://host/name"},
            "APP_DATABASE_ENCRYPTION_KEY: is for SQLite",
        ),
        (
            {"APP_DATABASE_ENCRYPTION_KEY_FILE": "key", "DATABASE_URL": "postgresql://host/name"},
            "APP_DATABASE_ENCRYPTION_KEY_FILE: is for SQLite",
        ),
    ],
)
def test_there_is_one_encryption_key_and_it_is_for_a_file(environ, fault):
    with pytest.raises(SettingsError) as refused:
        load({}, environ)
    assert str(refused.value).startswith(fault)
    assert len(refused.value.faults) == 1


def test_the_encryption_key_is_not_shown():
    assert "s3same" not in repr(load({}, {"APP_DATABASE_ENCRYPTION_KEY": "s3same"}))


def test_what_is_missing_is_named_though_it_stands_nowhere(tmp_path):
    refused = refused_start(tmp_path / "tasks.db", APP_SERVER_TLS_CERT="x.crt")
    assert (refused.returncode, refused.stderr) == (2, "server.tls_key: is required with tls_cert\n")
