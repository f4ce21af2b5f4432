"""The FastAPI app around an engine. Nothing happens at import: ``create_app`` is called by the server and the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from service.edge.draining import Drain
from service.edge.intake import Admit
from service.edge.keys import ADMIN_PREFIX, Gate
from service.edge.middleware import OPENAI_PATHS, Authorise, CancelOnDisconnect, Observe, note_error
from service.edge.problems import BodyInvalid, MethodNotAllowed, RouteUnknown, problem_response
from service.edge.tracing import Tracing
from service.engine import Engine
from service.openapi.documentation import DESCRIPTION, document
from service.openapi.security import with_security
from service.routes.admin import admin_router
from service.routes.catalogue import catalogue_router
from service.routes.clip_retrieval import clip_retrieval_router
from service.routes.embeddings import embeddings_router
from service.routes.items import items_router
from service.routes.label_sets import label_sets_router
from service.routes.page import page_router
from service.routes.probes import probes_router
from service.routes.replies import context_of
from service.routes.search import search_router
from service.settings import Settings
from sightline import __version__
from sightline.errors import SightlineError

_CORS_HEADERS = ("Authorization", "X-API-Key", "Content-Type", "X-Request-ID", "X-Request-Timeout-Ms", "traceparent")
_CORS_SHOWN = ("X-Request-ID", "X-Sightline-Cache", "Server-Timing", "Retry-After", "WWW-Authenticate")
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
"""FastAPI's own would write exceptions' texts and what was sent; ``service.edge.tracing`` takes its place."""


def create_app(
    engine: Engine, settings: Settings, *, gate: Gate | None = None, tracing: Tracing | None = None
) -> FastAPI:
    """An ASGI app that answers with this engine. Starting and closing the engine is the caller's business.

    Raises SettingError when a file of keys cannot be read. Preflight requests of allowed origins need no key, are
    answered outermost and are not counted.
    There is no ``/docs``: FastAPI's page loads its scripts from elsewhere. ``/openapi.json`` is complete.
    """
    app = FastAPI(
        title="Sightline", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None,
        redirect_slashes=False, telemetry=_NO_TELEMETRY,
    )  # fmt: skip
    routers = (
        search_router(engine), embeddings_router(engine), catalogue_router(engine), items_router(engine),
        clip_retrieval_router(engine),
        label_sets_router(engine), admin_router(engine), probes_router(engine), page_router(),
    )  # fmt: skip
    for router in routers:  # include_router would match every request twice and wrap it once more: 0.1 ms
        app.router.routes.extend(router.routes)
    gate = gate or Gate(settings)
    app.openapi = with_security(document(app), needs_key=gate.needs_key)  # type: ignore[method-assign]

    async def answer_error(request: Request, error: Exception) -> Response:
        ours = _as_ours(error, lambda: _allowed_methods(request, routers))
        context = context_of(request)
        note_error(ours, context, engine.metrics)
        path: str = request.scope["path"]
        return problem_response(
            ours, context.request_id, openai=path in OPENAI_PATHS, operator=path.startswith(ADMIN_PREFIX)
        )

    for kind in (SightlineError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer_error)
    app.add_middleware(CancelOnDisconnect, metrics=engine.metrics)
    app.add_middleware(Admit, settings=settings, metrics=engine.metrics)
    app.add_middleware(Authorise, gate=gate)
    app.add_middleware(Drain, draining=lambda: engine.draining)
    app.add_middleware(Observe, settings=settings, metrics=engine.metrics, tracing=tracing)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=("GET", "POST", "PUT", "DELETE"),
            allow_headers=_CORS_HEADERS, expose_headers=_CORS_SHOWN, allow_credentials=False,
        )  # fmt: skip
    return app


def _as_ours(error: Exception, allowed_methods: Callable[[], str]) -> SightlineError:
    """Starlette's and FastAPI's errors in our words."""
    if isinstance(error, SightlineError):
        return error
    if isinstance(error, HTTPException) and error.status_code == 404:
        return RouteUnknown("There is no such route; GET /openapi.json lists them.")
    if isinstance(error, HTTPException) and error.status_code == 405:
        allow = allowed_methods()
        return MethodNotAllowed(f"This route does not take this method; use {allow}.", allow=allow)
    return BodyInvalid("The request is not what this route takes; GET /openapi.json describes it.", [])


def _allowed_methods(request: Request, routers: Iterable[APIRouter]) -> str:
    """Of every route with this path: Starlette's own header names those of the first one."""
    routes = [route for router in routers for route in router.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in matching for method in route.methods or ()}))
