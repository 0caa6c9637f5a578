"""JSON-RPC messages: what each is, and which headers it takes over HTTP. No I/O."""

import json
import re
from base64 import b64encode
from typing import Any

from attrs import frozen

from task_orchestrator.errors import OrchestratorError, Refused

PARSE_ERROR, INVALID_REQUEST = -32700, -32600
OUT_OF_REACH = -32000  # from here to -32099 the codes are for whoever implements it

_VERSION = "io.modelcontextprotocol/protocolVersion"
_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_PLAIN = re.compile(r"(?!=\?base64\?)[!-~]([ -~]*[!-~])?")
_WRAPPED = "=?base64?{}?="

Json = dict[str, Any]


@frozen
class Message:
    """`line` is how it came, without the end of the line."""

    line: bytes
    content: Json

    @property
    def method(self) -> str:
        return str(self.content.get("method", ""))

    @property
    def params(self) -> Json:
        params = self.content.get("params")
        return params if isinstance(params, dict) else {}

    @property
    def id(self) -> Any:
        return self.content.get("id")

    @property
    def is_request(self) -> bool:
        """Whether an answer is due: it is neither a notification nor an answer itself."""
        return "method" in self.content and "id" in self.content

    @property
    def version(self) -> str | None:
        """The revision that it names itself, as every message does from 2026-07-28 on."""
        meta = self.params.get("_meta")
        version = meta.get(_VERSION) if isinstance(meta, dict) else None
        return version if isinstance(version, str) else None

    def headers(self, negotiated: str | None) -> dict[str, str]:
        """Those that repeat what it says; `negotiated` is the revision that `initialize` has settled, if any."""
        if self.version is None:
            return {"MCP-Protocol-Version": negotiated} if negotiated and self.method != "initialize" else {}
        name = self.params.get(_NAMED_BY.get(self.method, ""))
        said = {"MCP-Protocol-Version": self.version, "Mcp-Method": self.method, "Mcp-Name": name}
        return {header: _plain(value) for header, value in said.items() if isinstance(value, str)}


def key_of(request_id: Any) -> str:
    """The same for the same id, and for no other: 1 is not "1"."""
    return json.dumps(request_id)


def error(request_id: Any, code: int, message: str, data: Json | None = None) -> Json:
    said = {"code": code, "message": message} | ({"data": data} if data else {})
    return {"jsonrpc": "2.0", "id": request_id, "error": said}


def failure(request_id: Any, reason: OrchestratorError, url: str) -> Json:
    """Why there is no answer, in words that tell the model what to do about it."""
    if not isinstance(reason, Refused):
        return error(request_id, OUT_OF_REACH, f"{reason}. {_AWAY.format(url=url)} {_UNKNOWN}")
    after = reason.retry_after_seconds
    data = {"status": reason.status, "code": reason.code, "retry_after_seconds": after}
    text = f"The server refused this ({reason.status} {reason.code}): {reason.message}. "
    text += _ADVICE.get(reason.status, _BUSY if reason.temporary else _FINAL).format(
        wait=f"{after or 5:.0f} s", url=url
    )
    return error(request_id, OUT_OF_REACH, text, {name: value for name, value in data.items() if value is not None})


_UNKNOWN = (
    "Whether the call took effect is not known: claim_next_task, heartbeat_task, complete_task, fail_task and the "
    "tools that only read are safe to repeat; before anything else look with get_task or list_tasks."
)
_AWAY = (
    "Wait 5 s and call again. If it stays so, tell the user that the Task Orchestrator at {url} does not answer: it is "
    "started with `task-orchestrator serve`, and TASK_ORCHESTRATOR_URL says where it is."
)
_BUSY = f"Wait {{wait}} and call again. {_UNKNOWN}"
_FINAL = "Calling again in the same way will not help: change the call, or tell the user."
_ADVICE = {
    401: "Calling again will not help. Tell the user to put a valid key into TASK_ORCHESTRATOR_API_KEY, where this "
    "client is started, and to reconnect.",
    403: "Calling again will not help. Tell the user what the key lacks: a scope, a work directory, or this address.",
    404: "Calling again will not help. Tell the user that there is no MCP at {url}/mcp: it may be switched off "
    "(mcp.enabled), or the address may be wrong.",
    413: "Send less: shorten the prompt or the result, or put it into a file and name the file.",
    429: "You are calling too often. Wait {wait}, then make the same call again.",
}


def _plain(value: str) -> str:
    """As a header can hold it: what is not printable ASCII is wrapped up."""
    return value if _PLAIN.fullmatch(value) else _WRAPPED.format(b64encode(value.encode()).decode())
