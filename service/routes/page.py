"""The web page: static files of the package, read once, served under a policy that lets nothing else in."""

from __future__ import annotations

import html
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from service.edge.problems import RouteUnknown, problem_kinds, status_of
from service.openapi.examples import SENTENCES

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
    """``/``, the page's two files and the list of errors; a file that is not installed is a 404."""
    router = APIRouter()
    for route, (name, media_type) in _FILES.items():
        path = directory / name
        router.add_api_route(
            route, _serving(path.read_bytes() if path.is_file() else None, media_type), include_in_schema=False
        )
    router.add_api_route("/docs/errors", _serving(_errors_page(), "text/html"), include_in_schema=False)
    return router


def _errors_page() -> bytes:
    """Every code an answer may carry, so that a problem's ``type`` leads somewhere."""
    kinds = {kind.code: kind for kind in problem_kinds()}
    rows = "\n".join(
        f'<tr id="{kind.code}"><td><code>{kind.code}</code></td><td>{status_of(kind)}</td>'
        f"<td>{html.escape(SENTENCES.get(kind.code, ''))}</td></tr>"
        for kind in sorted(kinds.values(), key=lambda kind: kind.code)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Errors of Sightline</title></head><body>
<h1>Errors</h1>
<p>The sentence in an answer says what is wrong and what to change. A 500 with the code <code>internal</code> is a
fault of the service itself.</p>
<table><tr><th>code</th><th>status</th><th>for example</th></tr>
{rows}
</table></body></html>
""".encode()


def _serving(content: bytes | None, media_type: str):  # type: ignore[no-untyped-def]  # FastAPI reads the inner signature
    async def serve() -> Response:
        if content is None:
            raise RouteUnknown("The web page is not installed; use the REST routes that GET /openapi.json lists.")
        return Response(content, media_type=media_type, headers=_HEADERS)

    return serve
