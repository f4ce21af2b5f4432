"""For the operator: serve another generation, or the one before again. Keys are checked before these routes."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.compactor import Compacted
from service.edge.bodies import read_json
from service.edge.problems import (
    BodyInvalid,
    BodyMalformed,
    BodyTooLarge,
    CompactionRunning,
    LiveUnavailable,
    LiveWritesOff,
    MediaTypeUnsupported,
    NothingBefore,
    ReloadRunning,
)
from service.engine import Engine
from service.openapi import examples, schemas
from service.openapi.documentation import answers, json_body, optional
from service.routes.replies import context_of, reply
from service.served import Change
from service.threads import run_apart
from sightline import errors

_REFUSALS = (
    errors.GenerationUnknown, errors.EncoderMismatch, ReloadRunning, errors.ManifestMissing, errors.ManifestInvalid,
    errors.SchemaUnknown, errors.FileChanged, errors.CountMismatch, errors.DuplicateIds, errors.VectorsWrong,
    errors.LiveChangesMissing,
    errors.NotReady, errors.ShuttingDown, errors.MemoryShort,
)  # fmt: skip
_BODY_ERRORS = (BodyMalformed, BodyTooLarge, MediaTypeUnsupported, BodyInvalid)


def admin_router(engine: Engine) -> APIRouter:
    """The routes under ``/v1/admin`` that change what is served."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"])

    @router.post(
        "/reload", operation_id="reloadGeneration", summary="Serve another generation",
        responses=answers(schemas.ChangeAnswer, examples.CHANGE_ANSWER, (*_BODY_ERRORS, *_REFUSALS)),
        openapi_extra=optional(json_body(schemas.ReloadBody, **examples.RELOAD)),
    )  # fmt: skip
    async def reload(request: Request) -> Response:
        """Open, verify and serve the generation of this name, or the one that the collection's `CURRENT` names.

        The answer comes when the new generation is served; requests go on meanwhile, and each is answered from one
        generation. Whatever is wrong with the new one is said here, and the old one stays. A client that leaves does
        not stop it.
        """
        given = bool((await request.body()).strip())
        body = await read_json(request, schemas.ReloadBody, engine.offload) if given else schemas.ReloadBody()
        change = await asyncio.wrap_future(run_apart(lambda: engine.served.reload(body.generation), "reload"))
        return await _answer(request, change)

    @router.post(
        "/rollback", operation_id="rollbackGeneration", summary="Serve the generation before again",
        responses=answers(schemas.ChangeAnswer, examples.CHANGE_ANSWER, (NothingBefore, *_REFUSALS)),
    )  # fmt: skip
    async def rollback(request: Request) -> Response:
        """Open, verify and serve the generation that was served before the present one; asked twice, it returns.

        `CURRENT` is left as it is: set it too, else the next start serves what it names.
        """
        change = await asyncio.wrap_future(run_apart(engine.served.rollback, "rollback"))
        return await _answer(request, change)

    @router.post(
        "/compact", operation_id="compactChanges", summary="Build live changes into a generation",
        responses=answers(
            schemas.CompactAnswer, examples.COMPACT_ANSWER,
            (LiveWritesOff, LiveUnavailable, CompactionRunning, errors.StorageError, errors.LiveLogDamaged, *_REFUSALS),
        ),
    )  # fmt: skip
    async def compact(request: Request) -> Response:
        """Copy what is served, without what was replaced and deleted and with what was put, into a new generation.

        The answer comes when it is published, verified and served; requests and changes go on meanwhile. Whatever is
        wrong is said here, and the old generation with its changes stays. A client that leaves does not stop it.
        """
        return await _answer(request, await asyncio.wrap_future(run_apart(engine.compactor.run, "compact")))

    async def _answer(request: Request, change: Change | Compacted) -> Response:
        payload = {"collection": engine.snapshot.generation.name, "encoder": engine.snapshot.encoder, **asdict(change)}
        return await reply(engine, payload, 1, context_of(request))

    return router
