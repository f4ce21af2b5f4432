"""The web page: static files of the package, read once, served under a policy that lets nothing else in."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from service.problems import RouteUnknown

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)
PAGE_DIRECTORY = Path(__file__).parent.parent / "page"
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_FILES = {
    "/": ("index.html", "text/html"),
    "/page/app.js": ("app.js", "text/javascript"),
    "/page/style.css": ("style.css", "text/css"),
}


def page_router(directory: Path = PAGE_DIRECTORY) -> APIRouter:
    """``/`` and the page's two files; a file that is not installed is a 404."""
    router = APIRouter()
    for route, (name, media_type) in _FILES.items():
        path = directory / name
        router.add_api_route(
            route, _serving(path.read_bytes() if path.is_file() else None, media_type), include_in_schema=False
        )
    return router


def _serving(content: bytes | None, media_type: str):  # type: ignore[no-untyped-def]  # FastAPI reads the inner signature
    async def serve() -> Response:
        if content is None:
            raise RouteUnknown("The web page is not installed; use the REST routes that GET /openapi.json lists.")
        return Response(content, media_type=media_type, headers=_HEADERS)

    return serve
