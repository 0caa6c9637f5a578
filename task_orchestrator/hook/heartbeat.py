"""One heartbeat, by the standard library alone."""

import http.client
import json
import os
import ssl
from urllib.parse import quote, urlsplit

HELD, LOST, UNKNOWN = "held", "lost", "unknown"
_OVER = frozenset({"finished", "released"})  # the agent has said so itself, and we have not heard it
_ANSWER_BYTES_MAX = 64 * 1024


def beat(url: str, task_id: str, lease_token: str, seconds: float) -> tuple[str, str]:
    """HELD, LOST or UNKNOWN, and why it is lost: empty where the agent has given it up itself. Raises whatever
    there is to raise."""
    parts = urlsplit(url)
    connection = _connection(parts.scheme, parts.netloc.rpartition("@")[2], seconds)
    try:
        path = f"{parts.path.rstrip('/')}/api/v1/tasks/{quote(task_id, safe='')}/heartbeat"
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if key := os.environ.get("TASK_ORCHESTRATOR_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        connection.request("POST", path, json.dumps({"lease_token": lease_token}), headers)
        answer = connection.getresponse()
        body = answer.read(_ANSWER_BYTES_MAX)
    finally:
        connection.close()
    return (HELD, "") if answer.status == 200 else _refusal(answer.status, body)


def _refusal(status: int, body: bytes) -> tuple[str, str]:
    error = json.loads(body).get("error") or {}
    if status != 409 or error.get("code") != "LEASE_LOST":
        return UNKNOWN, ""
    reason = str((error.get("details") or {}).get("reason", ""))
    return LOST, "" if reason in _OVER else reason


def _connection(scheme: str, host: str, seconds: float) -> http.client.HTTPConnection:
    if scheme != "https":
        return http.client.HTTPConnection(host, timeout=seconds)
    authorities = ssl.create_default_context(cafile=os.environ.get("TASK_ORCHESTRATOR_CA_FILE") or None)
    return http.client.HTTPSConnection(host, timeout=seconds, context=authorities)
