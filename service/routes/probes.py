"""Probes and metrics: cheap, outside every limit, and true."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from service.engine import Engine
from service.openapi import schemas
from service.openapi.documentation import answers, raw_answer
from sightline.errors import NotReady


def probes_router(engine: Engine) -> APIRouter:
    """``/livez``, ``/readyz`` and ``/metrics``."""
    router = APIRouter(tags=["probes"])

    @router.get(
        "/livez", operation_id="live", summary="Is the process alive?",
        responses=answers(schemas.Status, {"status": "alive"}, ()),
    )  # fmt: skip
    async def live() -> Response:
        """200 as long as the event loop answers. Restart the process when it does not."""
        return JSONResponse({"status": "alive"})

    @router.get(
        "/readyz", operation_id="ready", summary="May traffic be sent here?",
        responses=answers(schemas.Status, {"status": "ready"}, (NotReady,)),
    )  # fmt: skip
    async def ready() -> Response:
        """200 when the encoder and the index answer; 503 while starting, mending or shutting down.

        A full queue is not a reason: that would take whole fleets out of service at once.
        """
        reason = engine.not_ready_reason()
        if reason is not None:
            raise reason
        return JSONResponse({"status": "ready"})

    @router.get(
        "/metrics", operation_id="metrics", summary="Prometheus metrics", response_class=Response,
        responses={200: raw_answer("The Prometheus text format.", "text/plain")},
    )  # fmt: skip
    async def metrics() -> Response:
        """Every metric of the service; names start with `sightline_`."""
        return Response(engine.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router
