"""The machine-readable description of the contract, and its page: all that the page needs comes from here."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from aiohttp.web import AppKey, Application, Request, Response

from web.access.browsers import PAGE_POLICY
from web.bodies import Nothing
from web.route import others
from web.service import Service

DOCUMENT = AppKey("document", bytes)
CACHED = {"Cache-Control": "no-cache"}  # kept, but asked for again
POLICY = {"Content-Security-Policy": PAGE_POLICY}
FILES: Mapping[str, tuple[str, str]] = {
    "swagger-ui.css": ("swagger-ui/swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("swagger-ui/swagger-ui-bundle.js", "text/javascript"),
    "docs.js": ("docs.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}


async def document(service: Service, asked: Nothing, request: Request) -> Response:
    """Describe this contract as OpenAPI 3.1."""
    return _response(request.app[DOCUMENT], "application/json")


async def page(service: Service, asked: Nothing, request: Request) -> Response:
    """Show this contract to people, in a browser."""
    return _response(_content("docs.html"), "text/html")


def add_files(app: Application) -> None:
    """What the page is made of, beside it."""
    for name, (path, kind) in FILES.items():

        async def file(request: Request, path: str = path, kind: str = kind) -> Response:
            return _response(_content(path), kind)

        app.router.add_get(f"/docs/{name}", file)
        app.router.add_route("*", f"/docs/{name}", others("GET", "HEAD"))


@cache
def _content(path: str) -> bytes:
    return (files("web") / "static" / path).read_bytes()


def _response(body: bytes, kind: str) -> Response:
    return Response(body=body, content_type=kind, charset="utf-8", headers={**CACHED, **POLICY})
