"""Probes and metrics: cheap, outside every limit, and true."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from service.engine import Engine
from service.openapi import schemas
from service.openapi.documentation import answers, raw_answer
from sightline.errors import EncoderLost, NotReady, ShuttingDown


def probes_router(engine: Engine) -> APIRouter:
    """``/livez``, ``/readyz`` and ``/metrics``."""
    router = APIRouter(tags=["probes"])

    @router.get(
        "/livez", operation_id="live", summary="Is the process alive?",
        responses=answers(schemas.Status, {"status": "alive"}, (NotReady,)),
    )  # fmt: skip
    async def live() -> Response:
        """200 as long as this process can help itself. Restart it when it does not answer, or says 503.

        That is so when the encoder has been stuck for half a minute and more, or the accelerator is lost.
        """
        reason = engine.not_alive_reason()
        if reason is not None:
            raise reason
        return JSONResponse({"status": "alive"})

    @router.get(
        "/readyz", operation_id="ready", summary="May traffic be sent here?",
        responses=answers(schemas.Status, {"status": "ready"}, (NotReady, ShuttingDown, EncoderLost)),
    )  # fmt: skip
    async def ready() -> Response:
        """200 when the encoder answers as it did at the start; 503 while starting, mending or shutting down.

        A reload is no reason: requests are answered from the generation before until the new one is proven.

        A full queue is not a reason: that would take whole fleets out of service at once.
        """
        reason = engine.not_ready_reason()
        if reason is not None:
            raise reason
        return JSONResponse({"status": "ready"})

    # The names that KServe, Triton and common load balancers ask for.
    router.add_api_route("/v2/health/live", live, include_in_schema=False)
    router.add_api_route("/v2/health/ready", ready, include_in_schema=False)
    router.add_api_route("/health", ready, include_in_schema=False)

    @router.get(
        "/metrics", operation_id="metrics", summary="Prometheus metrics", response_class=Response,
        responses={200: raw_answer("The Prometheus text format.", "text/plain")},
    )  # fmt: skip
    async def metrics() -> Response:
        """Every metric of the service; names start with `sightline_`."""
        return Response(engine.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router
