"""Secrets everywhere, and nowhere to be seen: not in any answer, in the log, or in the list of processes."""

import asyncio
import json
import sys
import time
from pathlib import Path

import jwt
import pytest

from task_orchestrator.discretion import secret_spans
from tests.conftest import ServerProcess
from tests.postgres import Cluster
from tests.web.conftest import TASKS, Api, connected, refused_start
from tests.web.inside import inside
from web.routes import ROUTES

pytestmark = pytest.mark.once

API_KEY = "configured-api-key-Zq81"
WEBHOOK = "webhook-signing-secret-Zq82"
TOKENS = "secret-of-json-web-tokens-Zq83-and-long-enough"
PASSWORD = "database-password-Zq84"
IN_PROMPT = "sk-ant-api03-" + "Zq85-" * 10
IN_RESULT = "hunter-Zq86-hunter"
GIVEN = {
    "API_SECRET_KEY": API_KEY,
    "APP_WEBHOOKS_SECRET": WEBHOOK,
    "APP_WEBHOOKS_URL": "http://127.0.0.1:9/webhook-path-Zq87-secret",
    "APP_WEBHOOKS_ALLOW_PRIVATE": "true",
    "APP_SECURITY_JWT_ALGORITHM": "HS256",
    "APP_SECURITY_JWT_SECRET": TOKENS,
    "APP_SECURITY_REDACT_PAYLOADS": "true",
    "APP_LOGGING_REDACT": "false",
    "LOG_LEVEL": "debug",
}


def command_line(pid: int) -> bytes:
    """As everybody on the machine may read it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def read_all(api: Api, task_id: str) -> str:
    """Everything that can be had by reading."""
    texts = []
    paths = [route.path.format(task_id=task_id) for route in ROUTES if route.method == "GET"]
    paths += ["/nowhere", f"{TASKS}/{task_id}?include=history,logs", f"{TASKS}?limit=none", "/api/v1/events?after=0"]
    paths.remove(f"{TASKS}/stream")
    paths.remove(f"{TASKS}/next")
    for path in paths:
        for accept in ("application/json", "*/*", "text/csv"):
            if "/events" in path and accept != "application/json":
                continue
            answer = await api.call("GET", path, headers={"Accept": accept})
            texts.append(f"{answer.headers}\n{answer.content.decode()}")
    return "\n".join(texts)


async def test_no_secret_is_told_anywhere(tmp_path, cluster: Cluster):
    name = cluster.create_database()
    url = cluster.url(name)
    record = url.replace("postgres@", f"postgres:{PASSWORD}@")
    assert PASSWORD in record
    server = ServerProcess(tmp_path, "--api-key", API_KEY, environ=GIVEN, record=record).start()
    try:
        processes = command_line(server.pid)
        async with connected(server, Authorization=f"Bearer {API_KEY}") as admin:
            made = (await admin.post("/api/v1/keys", {"name": "reader", "scopes": ["read", "submit"]})).data["key"]
            task = await admin.claimed("/srv/app", prompt=f"Use {IN_PROMPT}", metadata={"password": IN_RESULT})
            lease = task["lease_token"]
            await admin.tell(task, "heartbeat", progress={"percent": 1, "message": IN_PROMPT})
            await admin.tell(task, "logs", lines=[IN_PROMPT])
            await admin.tell(task, "fail", error_message=f"{IN_PROMPT} does not do")
            await admin.tell(task, "complete", result={"password": IN_RESULT})
            changes = {"changes": {"webhooks.secret": WEBHOOK + "-2"}}
            assert (await admin.call("PATCH", "/api/v1/config", json=changes)).status == 200
            settings = "\n".join([await read_all(admin, task["task_id"])])
        token = jwt.encode({"sub": "x", "exp": int(time.time()) + 60, "scope": "read"}, TOKENS, "HS256")
        texts = []
        for credential in (made, token):
            async with connected(server, Authorization=f"Bearer {credential}") as api:
                texts.append(await read_all(api, task["task_id"]))
                refused = await api.post(TASKS, {"work_directory": "/a", "prompt": "x", IN_PROMPT: made})
                assert refused.status in (400, 403)
                texts.append(refused.content.decode())
                texts.append((await api.call("GET", f"/{made}?key={IN_PROMPT}")).content.decode())
                texts.append((await api.call("GET", TASKS, headers={"X-Request-Id": made})).content.decode())
    finally:
        assert server.terminate() == 0
        cluster.drop_database(name)
    log = server.log.read_text()
    seen = {"the answers": "\n".join(texts), "the log": log, "the command line": processes.decode()}
    for place, text in seen.items():
        for secret in (API_KEY, WEBHOOK, TOKENS, PASSWORD, "Zq87", made, IN_PROMPT, IN_RESULT, lease, token):
            assert secret not in text, (place, secret)
    for secret in (API_KEY, WEBHOOK, TOKENS, PASSWORD, "Zq87", made, lease, token):
        assert secret not in settings, ("to an admin", secret)
    assert len(log.splitlines()) > 50
    assert "--api-key\0****" in seen["the command line"]


async def test_an_error_nobody_foresaw_tells_none(tmp_path, directory, monkeypatch):
    given = GIVEN | {"APP_WEBHOOKS_SECRET": WEBHOOK, "LOG_FORMAT": "json"}
    async with inside(tmp_path, **given) as (api, _, store):
        api.session.headers["Authorization"] = f"Bearer {API_KEY}"

        async def fail(*_: object) -> None:
            raise ValueError(f"{API_KEY} {WEBHOOK} {TOKENS} {IN_PROMPT} password={IN_RESULT}")

        monkeypatch.setattr(type(store.record), "task", fail)
        answer = await api.get(f"{TASKS}/0191d2f0-7c3e-7b8a-9c1d-2e3f4a5b6c7d")
        details = answer.refused(500, "INTERNAL_ERROR")
    lines = (tmp_path / "log").read_text()
    (told,) = [it for it in map(json.loads, lines.splitlines()) if it.get("error_id") == details["error_id"]]
    assert "ValueError: [redacted] [redacted] [redacted] [redacted] password=[redacted]" in told["exception"]
    for secret in (API_KEY, WEBHOOK, TOKENS, IN_PROMPT, IN_RESULT):
        assert secret not in lines
        assert secret not in answer.content.decode()


def test_settings_tell_no_secrets_when_they_are_wrong(tmp_path):
    for name, value in (
        ("API_SECRET_KEY", "Zq90 with spaces"),
        ("APP_WEBHOOKS_SECRET", "Zq91"),
        ("APP_SECURITY_JWT_SECRET", "Zq92"),
        ("DATABASE_URL", "postgresql://u:Zq93@h:bad/x"),
    ):
        said = refused_start(tmp_path / "tasks.db", **{name: value, "APP_TASK_MAX_TASK_RETRIES": "none"})
        assert said.returncode == 2
        assert "Zq9" not in said.stderr + said.stdout


@pytest.mark.parametrize(
    ("arguments", "hidden"),
    [
        ([b"serve", b"--api-key", b"abc", b"--port", b"0"], [b"abc"]),
        ([b"serve", b"--api-key=abc"], [b"abc"]),
        ([b"--database", b"postgresql://u:a:b@h/d"], [b"a:b"]),
        ([b"--from=postgresql://u:p@h/d", b"--to", b"postgresql://u@h/d"], [b"p"]),
        ([b"--database", b"sqlite:////a:b@c.db", b"--url", b"http://127.0.0.1:80/@"], []),
        ([b"--database", b"postgresql:///d?host=h&password=a%2Fb&port=1"], [b"a%2Fb"]),
        ([b"--database=postgresql://u:p@h/d?password=q"], [b"p", b"q"]),
        ([b"--api-key"], []),
        ([], []),
    ],
)
def test_what_is_secret_in_a_command_line_is_known(arguments, hidden):
    whole = b"\0".join(arguments)
    assert [whole[first:last] for first, last in secret_spans(arguments)] == hidden


async def test_the_command_line_of_a_client_is_blank_too(tmp_path):
    server = ServerProcess(tmp_path, environ={"API_SECRET_KEY": API_KEY}).start()
    command = [sys.executable, "-m", "task_orchestrator", "watch", "--url", server.url, "--api-key", API_KEY]
    client = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        async with connected(server, Authorization=f"Bearer {API_KEY}") as api:
            await api.busy_with(1)
            assert API_KEY.encode() not in command_line(client.pid)
            assert b"--api-key" in command_line(client.pid)
    finally:
        client.kill()
        await client.wait()
        server.terminate()
