"""A session with one server: requests go out, and the server's envelope comes back or an exception."""

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from task_orchestrator.answers import decoded, refusal, unreachable

DEFAULT_URL = "http://127.0.0.1:8080"
ANSWER_SECONDS = 30.0  # for an answer, on top of what the server was asked to wait
CONNECT_SECONDS = 10.0
CONNECTIONS_MAX = 100  # at once; who wants more waits

Json = dict[str, Any]


class Session:
    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        ca_file: str | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        if not url.startswith(("http://", "https://")) or not URL(url).host:
            raise ValueError(f"not the address of a server (it should look like {DEFAULT_URL}): {url!r}")
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("an API key is printable ASCII")
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._authorities = _authorities(ca_file) if ca_file else None
        self._answer_seconds = answer_seconds
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def data(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        wait_seconds: float | None = None,
        nulls: bool = False,
    ) -> Json:
        """What a success says. Nulls are left out of the body, unless they mean something."""
        if body is not None and not nulls:
            body = {name: value for name, value in body.items() if value is not None}
        status, envelope, retry_after = await self._exchange(
            method, f"/api/v1/{path}", query=query, body=body, headers=headers, wait_seconds=wait_seconds
        )
        if status >= 300 or not isinstance(envelope.get("data"), dict):
            raise refusal(status, envelope, retry_after)
        data: Json = envelope["data"]
        return data

    async def exchange(self, method: str, path: str, **request: Any) -> tuple[int, Json]:
        status, document, _ = await self._exchange(method, path, **request)
        return status, document

    async def _exchange(
        self, method: str, path: str, *, wait_seconds: float | None = None, **request: Any
    ) -> tuple[int, Json, str | None]:
        timeout = aiohttp.ClientTimeout(self._answer_seconds + (wait_seconds or 0), sock_connect=CONNECT_SECONDS)
        try:
            async with self.open(method, path, timeout, **request) as response:
                return response.status, decoded(await response.read()), response.headers.get("Retry-After")
        except (aiohttp.ClientError, OSError) as error:  # asyncio's TimeoutError is an OSError too
            raise unreachable(self.url, error, f"no answer from {self.url}") from error

    def open(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections_max, ssl=self._authorities or True)
            self._session = aiohttp.ClientSession(headers=self._headers, connector=connector)
        return self._session.request(
            method,
            URL(self.url + path, encoded=True),
            params={name: _text(value) for name, value in (query or {}).items() if value is not None},
            json=body,
            data=data,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        )


def _authorities(file: str) -> ssl.SSLContext:
    """Only certificates that these have signed are believed."""
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise ValueError(f"the CA file {file!r} holds no certificate in PEM") from None
    except OSError as error:
        raise ValueError(f"the CA file {file!r} cannot be read: {error.strerror}") from None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ",".join(map(str, value))
