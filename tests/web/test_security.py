"""Who gets in: keys, the addresses to listen on, and web pages of other people's."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ServerProcess
from tests.web.conftest import TASKS, connected, footprint, raw, refused_start, text_of

KEY = "correct-horse-battery-staple"

# Everything that would change something, were it let through.
REQUESTS = [
    ("POST", TASKS, {"work_directory": "/guarded", "prompt": "x"}),
    ("GET", f"{TASKS}/next?work_path=/guarded", None),
    ("POST", f"{TASKS}/claim", {"work_directory": "/guarded"}),
    ("GET", f"{TASKS}/stream?work_path=/guarded", None),
]
READS = [("GET", TASKS, None), ("GET", f"{TASKS}/nobody", None), ("GET", "/nowhere", None), ("DELETE", TASKS, None)]


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A server with a key."""
    server = ServerProcess(tmp_path_factory.mktemp("locked"), environ={"API_SECRET_KEY": KEY}).start()
    yield server
    assert server.terminate() == 0


@pytest.fixture
async def untouched(shared, api):
    """A task waits in /guarded, and after the test it still does, alone."""
    await api.create("/guarded")
    before = footprint(shared)
    yield
    assert footprint(shared) == before


@pytest.fixture
async def untouched_and_locked(locked):
    async with connected(locked, Authorization=f"Bearer {KEY}") as api:
        await api.create("/guarded")
    before = footprint(locked)
    yield
    assert footprint(locked) == before


WRONG = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": f"Bearer {KEY}x"},
    {"Authorization": f"Bearer {KEY[:-1]}"},
    {"Authorization": f"Bearer {KEY.upper()}"},
    {"Authorization": f"Bearer {KEY},{KEY}"},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": KEY},
    {"Authorization": "Bearer \udcff\udcfe"},
    {"Authorization": "Bearer \N{SNOWMAN}"},
    {"X_API_Key": ""},
    {"X_API_Key": f"Bearer {KEY}"},
    {"X_API_Key": "\udcff"},
    {"Cookie": f"key={KEY}; api_key={KEY}"},
]


@pytest.mark.parametrize("headers", WRONG, ids=range(len(WRONG)))
async def test_without_the_key_nobody_gets_in(locked, untouched_and_locked, headers):
    """Nor learns what there is: known and unknown paths are answered alike."""
    for method, path, body in (*REQUESTS, *READS):
        answer = await raw(locked, text_of(method, path, body, **headers))
        assert answer.refused(401, "UNAUTHORIZED") == {}
        assert "bearer" in answer.json["error"]["message"] or "wrong" in answer.json["error"]["message"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert KEY not in answer.content.decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer   {KEY}"},
        {"X-API-Key": KEY},
        {"x-api-key": KEY, "Authorization": "Basic dXNlcjpwYXNz"},
    ],
)
async def test_with_the_key_everything_is_open(locked, directory, headers):
    async with connected(locked, **headers) as api:
        task = await api.claimed(directory)
        assert (await api.tell(task, "complete")).status == 200
        (await api.get("/nowhere")).refused(404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_health_is_open_without_a_key(locked, path):
    answer = await raw(locked, text_of("GET", path, host="monitor.example"))
    assert answer.status == 200
    assert KEY not in answer.content.decode()


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/health//api/v1/tasks",
        "/health/../api/v1/tasks",
        "/health/%2e%2e/api/v1/tasks",
        "/health/..%2fapi/v1/tasks",
        "//health/../api/v1/tasks",
        "/health;/../api/v1/tasks",
        "/api/v1/tasks?/health",
        "/api/v1/tasks#/health",
    ],
)
async def test_no_path_that_only_looks_like_health_is_open(locked, untouched_and_locked, path):
    for method, body in (("GET", None), ("POST", {"work_directory": "/guarded", "prompt": "x"})):
        answer = await raw(locked, text_of(method, path, body))
        assert answer.status in (400, 401, 404)
        assert answer.json["data"] is None


@pytest.mark.parametrize("headers", [{"Origin": "http://["}, {"Origin": "http://\udcff"}, {"Origin": "null"}], ids=repr)
async def test_the_key_does_not_make_foreign_pages_welcome(locked, untouched_and_locked, headers):
    answer = await raw(locked, text_of(*REQUESTS[0], X_API_Key=KEY, **headers))
    answer.refused(403, "FORBIDDEN")


async def test_the_key_alone_decides_under_which_name_the_server_is_reached(locked):
    request = text_of("GET", TASKS, host="tasks.example", X_API_Key=KEY)
    assert (await raw(locked, request)).status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost.example"])
def test_without_a_key_it_listens_to_this_machine_alone(tmp_path, host):
    """One line says what to do, and no database is made."""
    refused = refused_start(tmp_path / "new" / "tasks.db", "--host", host)
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert host in line
    assert "API_SECRET_KEY" in line
    assert not (tmp_path / "new").exists()


def test_an_empty_key_is_none(tmp_path):
    refused = refused_start(tmp_path / "tasks.db", "--host", "0.0.0.0", API_SECRET_KEY="")
    assert refused.returncode == 2
    assert "API_SECRET_KEY" in refused.stderr


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost"},
    {"Origin": "http://localhost:1"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "file://"},
    {"Origin": "http://["},
    {"Origin": "http://[x]"},
    {"Origin": "http://\udcff"},
    {"Origin": "http://127.0.0.1\N{ACCOUNT OF}"},
    {"Origin": "http://localhost:{port}@evil.example"},
    {"Origin": "http://evil.example@localhost:{port}"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:{port}"},
    {"host": "evil.example"},
    {"host": "evil.example:{port}"},
    {"host": "127.0.0.1.evil.example:{port}"},
    {"host": "localhost.evil.example"},
    {"host": "evil.example:{port}", "Origin": "http://evil.example:{port}"},
    {"host": "10.0.0.1:{port}"},
    {"host": "0.0.0.0:{port}"},
    {"host": "evil.example@localhost:{port}"},
    {"host": "localhost:{port}@evil.example"},
    {"host": "localhost.:{port}.evil.example"},
    {"host": ""},
    {"host": "["},
    {"host": "[x]"},
    {"host": "[::1"},
    {"host": "\udcff"},
    {"host": "127.0.0.1\N{ACCOUNT OF}"},
    {"host": "[fe80::1%25eth0]"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=repr)
async def test_a_page_of_somebody_elses_can_do_nothing(shared, untouched, headers):
    """Neither by a forged request nor under a name that leads here (DNS rebinding); nonsense is no way in either."""
    headers = {name.replace("-", "_"): value.format(port=shared.port) for name, value in headers.items()}
    headers.setdefault("host", f"localhost:{shared.port}")
    for method, path, body in (*REQUESTS, *READS):
        answer = await raw(shared, text_of(method, path, body, **headers))
        if answer.status != 400:
            answer.refused(403, "FORBIDDEN")
        assert answer.json["data"] is None


async def test_of_two_origins_one_is_somebody_elses(shared, untouched):
    own, foreign = f"Origin: http://localhost:{shared.port}", "Origin: https://evil.example"
    for first, second in ((own, foreign), (foreign, own), (own, own)):
        head = text_of("GET", TASKS, host=f"localhost:{shared.port}").decode()
        answer = await raw(shared, head.replace("\r\n\r\n", f"\r\n{first}\r\n{second}\r\n\r\n").encode())
        answer.refused(403, "FORBIDDEN")


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "127.0.0.1", "127.1.2.3", "[::1]"])
async def test_a_page_of_the_servers_own_may_speak(shared, name):
    host = f"{name}:{shared.port}"
    for headers in ({}, {"Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}):
        assert (await raw(shared, text_of("GET", TASKS, host=host, **headers))).status == 200


async def test_a_form_of_another_site_cannot_create_tasks(shared, untouched):
    """Even from a browser too old to say where the request comes from: what a form can send is not JSON."""
    content = b'{"work_directory":"/guarded","prompt":"x","metadata":{"a":"="}}'
    for type_ in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        head = text_of("POST", TASKS, Content_Type=type_, Content_Length=str(len(content)))
        (await raw(shared, head + content)).refused(415, "UNSUPPORTED_MEDIA_TYPE")


async def test_no_answer_invites_other_sites(api):
    asked = {"Access-Control-Request-Method": "POST"}
    for method, path in (("GET", TASKS), ("GET", "/health"), ("GET", "/nowhere"), ("GET", "/docs"), ("OPTIONS", TASKS)):
        answer = await api.call(method, path, headers=asked)
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    origin = {"Origin": "http://elsewhere.example"}
    (await api.call("OPTIONS", TASKS, headers=asked | origin)).refused(403, "FORBIDDEN")


# The first key


def keys(*arguments, **environ):
    command = [sys.executable, "-m", "task_orchestrator", "keys", *arguments]
    settings = {"env": {**os.environ, **environ}, "timeout": 60, "check": False}
    return subprocess.run(command, capture_output=True, text=True, **settings)


async def test_the_line_that_refuses_the_start_makes_the_key_it_asks_for(tmp_path):
    database = tmp_path / "new" / "tasks.db"
    (line,) = refused_start(database, "--host", "0.0.0.0").stderr.splitlines()
    found = re.search(r"task-orchestrator keys (create \S+ --scopes admin --database \S+)", line)
    made = keys(*found[1].split())
    assert made.returncode == 0, made.stderr
    (secret,) = made.stdout.splitlines()
    server = ServerProcess(database.parent, "--host", "0.0.0.0").start()
    try:
        async with connected(server, Authorization=f"Bearer {secret}") as api:
            api.url = f"http://127.0.0.1:{server.port}"
            (key,) = (await api.get("/api/v1/keys")).data["keys"]
            assert (key["name"], key["scopes"]) == ("admin", ["admin"])
    finally:
        assert server.terminate() == 0


async def test_the_first_key_can_be_written_to_a_file_for_its_owner_alone(tmp_path):
    """Once: later starts leave both the file and the keys alone."""
    file = tmp_path / "admin.key"
    server = ServerProcess(tmp_path, "--host", "0.0.0.0", "--initial-key-file", str(file)).start()
    secret = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in server.log.read_text()
    for _ in range(2):
        async with connected(server, Authorization=f"Bearer {secret}") as api:
            api.url = f"http://127.0.0.1:{server.port}"
            assert len((await api.get("/api/v1/keys")).data["keys"]) == 1
        assert server.terminate() == 0
        server.start()
    assert server.terminate() == 0


def test_a_file_that_is_there_is_not_taken_for_the_first_key(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    refused = refused_start(tmp_path / "tasks.db", "--initial-key-file", str(file))
    assert refused.returncode == 2
    assert str(file) in refused.stderr
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        (["--scopes", "root"], 2, "scopes"),
        (["--scopes", "read", "--work-directories", "srv"], 2, "work_directories"),
        (["--scopes", "read", "--expires-at", "soon"], 2, "expires_at"),
    ],
)
def test_a_key_that_breaks_a_rule_is_not_made_offline_either(tmp_path, options, status, word):
    refused = keys("create", "x", *options, "--database", f"sqlite:///{tmp_path}/tasks.db")
    assert (refused.returncode, refused.stdout) == (status, "")
    assert word in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_record_that_a_server_owns_is_asked_through_the_server(locked):
    refused = keys("create", "x", "--scopes", "read", "--database", f"sqlite:///{locked.database}")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert len(refused.stderr.splitlines()) == 1


def test_keys_are_made_listed_and_revoked_from_the_command_line(locked):
    environ = {"TASK_ORCHESTRATOR_URL": locked.url, "TASK_ORCHESTRATOR_API_KEY": KEY}
    made = keys("create", "cli", "--scopes", "work,read", "--work-directories", "/srv/*,/opt/app", **environ)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.startswith("tok_")
    shown = json.loads(keys("list", "--json", **environ).stdout)["keys"]
    (key,) = [key for key in shown if key["name"] == "cli"]
    assert (key["scopes"], key["work_directories"]) == (["work", "read"], ["/srv/*", "/opt/app"])
    assert "cli" in keys("list", **environ).stdout
    again = keys("create", "cli", "--scopes", "work", **environ)
    assert (again.returncode, again.stdout) == (1, "")
    assert "ALREADY_EXISTS" in again.stderr
    assert keys("revoke", "cli", **environ).returncode == 0
    assert keys("revoke", "cli", **environ).returncode == 1
    with_it = {"TASK_ORCHESTRATOR_URL": locked.url, "TASK_ORCHESTRATOR_API_KEY": made.stdout.strip()}
    assert "401" in keys("list", **with_it).stderr
