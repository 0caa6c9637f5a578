"""What a browser may be made to do here by the pages that it shows, and what it may do with our answers."""

from typing import Final

from aiohttp.web import AppKey, Request, RequestKey, StreamResponse
from multidict import CIMultiDict

from web.access.addresses import WHENCE, Whence
from web.access.network_settings import ANYBODY
from web.access.networks import names_loopback
from web.answers import Failure
from web.settings import Settings

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PAGES = ("/", "/docs")  # for people: a link from elsewhere may lead there

# To a browser an answer is data, and not to be run, framed, guessed at or read by others. A page says more itself.
GUARDS = CIMultiDict(
    {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
)
SERVER = "task-orchestrator"  # and not the versions of what it is made of
# Of a page whose scripts and styles are files of ours.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

ALLOWED_HEADERS = (
    "Accept, Authorization, Content-Encoding, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, "
    "Mcp-Method, Mcp-Name, Mcp-Protocol-Version, Mcp-Session-Id, X-API-Key, X-Request-Id, X-Worker-Id"
)
EXPOSED_HEADERS = (
    "Allow, Content-Encoding, ETag, Idempotent-Replayed, Location, Mcp-Session-Id, RateLimit-Limit, "
    "RateLimit-Remaining, RateLimit-Reset, Retry-After, WWW-Authenticate, X-Request-Id"
)
PREFLIGHT_SECONDS = "600"  # how long a browser may keep what it was told of a path

ADMITTED: Final = RequestKey("admitted", str)
"""The foreign origin whose page the browser asks for; ANYBODY if it is let in without being named."""


class Browsers:
    """Told the settings first."""

    def adopt(self, settings: Settings) -> None:
        security = settings.security
        self._answers_pages = security.enable_cors
        self._origins = frozenset(security.cors_origins if security.enable_cors else ())
        age = settings.server.hsts_seconds
        self._secured = CIMultiDict({**GUARDS, "Strict-Transport-Security": f"max-age={age}"})

    def check(self, request: Request, whence: Whence, is_open: bool) -> None:
        """No web page of somebody else's may speak for the person at the browser; raises a 403 Failure.

        A server that `is_open` trusts whoever reaches it, so the name it is reached by must be this machine's: a
        foreign name that resolves to 127.0.0.1 is how a page gets around the check of the origin.
        """
        if is_open and not (names_loopback(whence.host) and names_loopback(request.host)):
            raise Failure(403, "FORBIDDEN", "without keys this server answers only to its own machine's names")
        origin = request.headers.get("Origin")
        if origin is not None and len(request.headers.getall("Origin")) > 1:
            raise _foreign()  # one of them may be
        if origin is not None and not is_own(origin, whence):
            request[ADMITTED] = self._admitted(origin, is_open)
        elif request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not _opens_page(request):
            raise _foreign()

    def _admitted(self, origin: str, is_open: bool) -> str:
        if origin in self._origins:
            return origin
        if ANYBODY in self._origins and not is_open:  # then a page needs a key, and not only a person who looks at it
            return ANYBODY
        raise _foreign()

    def mark(self, request: Request, response: StreamResponse) -> None:
        """What every answer says to browsers, be it a refusal or a stream."""
        headers, whence = response.headers, request.get(WHENCE)
        is_secure = whence is not None and whence.scheme == "https" and not names_loopback(whence.host)
        headers.merge(self._secured if is_secure else GUARDS)
        headers["Server"] = SERVER
        if self._answers_pages:
            headers["Vary"] = f"{varies}, Origin" if (varies := headers.get("Vary")) else "Origin"
            if (admitted := request.get(ADMITTED)) is not None:
                _admit(admitted, request, response)


def _admit(origin: str, request: Request, response: StreamResponse) -> None:
    """Never with credentials: who calls from elsewhere has a key, and does not borrow somebody's session."""
    headers = response.headers
    headers["Access-Control-Allow-Origin"] = origin
    if request.method == "OPTIONS" and response.status == 204 and "Access-Control-Request-Method" in request.headers:
        headers["Access-Control-Allow-Methods"] = headers["Allow"]
        headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
        headers["Access-Control-Max-Age"] = PREFLIGHT_SECONDS
    else:
        headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS


def check_own_page(request: Request) -> None:
    """A browser sends the cookie of a session by itself. What changes something under it must come from a page of
    ours, and prove it; raises a 403 Failure. A foreign page that is admitted has no part in the session at all."""
    origin = request.headers.get("Origin")
    is_ours = request.headers.get("Sec-Fetch-Site") == "same-origin" or (
        origin is not None and is_own(origin, request[WHENCE])
    )
    if ADMITTED in request or (request.method not in SAFE_METHODS and not is_ours):
        raise Failure(403, "FORBIDDEN", "a session is for the server's own pages: use a key")


def is_own(origin: str, whence: Whence) -> bool:
    """Whether a page of this origin came from us. Where TLS ends before us we do not know of it: so a page that came
    over TLS may ask a server without, but not the other way round."""
    scheme, _, place = origin.lower().partition("://")
    if scheme not in ("http", "https") or (scheme == "http" and whence.scheme == "https"):
        return False
    port = ":443" if scheme == "https" else ":80"
    return place.removesuffix(port) == whence.host.lower().removesuffix(port)


def _opens_page(request: Request) -> bool:
    """A link, or an address that was typed in."""
    asked = request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest")
    return asked == ("navigate", "document") and request.method in SAFE_METHODS and request.path in PAGES


def _foreign() -> Failure:
    return Failure(403, "FORBIDDEN", "requests from other sites are refused")


BROWSERS: Final = AppKey("browsers", Browsers)
