"""Label sets: labels registered once by name, for zero-shot classification."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.edge.bodies import read_json
from service.engine import Engine
from service.label_sets import LabelSet, LabelSetSpec
from service.openapi import examples, schemas
from service.openapi.documentation import TEXT_ROUTE, answers, json_body
from service.routes.replies import context_of, reply
from sightline.errors import NotFound, QueryError, TextError


def label_sets_router(engine: Engine) -> APIRouter:
    """Reading under ``/v1/label-sets``, changing under ``/v1/admin/label-sets``."""
    router = APIRouter(prefix="/v1", tags=["zero-shot"])

    @router.get(
        "/label-sets", operation_id="listLabelSets", summary="Every label set",
        responses=answers(schemas.LabelSetsAnswer, examples.LABEL_SETS_ANSWER, ()),
    )  # fmt: skip
    async def list_sets(request: Request) -> Response:
        """Names and sizes. `origin` is `file` where every replica has the set, `api` where only this one does."""
        sets = [
            {
                "name": one.name,
                "num_labels": len(one.spec.labels),
                "num_templates": len(one.spec.templates),
                "none_threshold": one.spec.none_threshold,
                "origin": one.origin,
            }
            for one in engine.classifier.sets.all()
        ]
        return await reply(engine, {"label_sets": sets}, len(sets), context_of(request))

    @router.get(
        "/label-sets/{name}", operation_id="getLabelSet", summary="One label set",
        responses=answers(schemas.LabelSetAnswer, examples.LABEL_SET_ANSWER, (NotFound,)),
    )  # fmt: skip
    async def get_set(request: Request, name: str) -> Response:
        """Its labels, templates and threshold."""
        return await _reply(engine, request, engine.classifier.sets.get(name))

    @router.put(
        "/admin/label-sets/{name}", operation_id="putLabelSet", summary="Register labels under a name",
        responses=answers(
            schemas.LabelSetAnswer, examples.LABEL_SET_ANSWER, (*TEXT_ROUTE, TextError, QueryError)
        ),
        openapi_extra=json_body(LabelSetSpec, **examples.LABEL_SET),
    )  # fmt: skip
    async def put_set(request: Request, name: str) -> Response:
        """Encodes the labels and keeps them, in this process's memory: a restart forgets them and other replicas do
        not learn of them. For sets that last, use the setting `label_sets_file`. An old set of this name answers until
        the new one is ready."""
        spec = await read_json(request, LabelSetSpec, engine.offload)
        return await _reply(engine, request, await engine.classifier.register(name, spec, context_of(request)))

    @router.delete(
        "/admin/label-sets/{name}", operation_id="deleteLabelSet", summary="Forget a label set",
        responses=answers(schemas.LabelSetAnswer, examples.LABEL_SET_ANSWER, (NotFound, QueryError)),
    )  # fmt: skip
    async def delete_set(request: Request, name: str) -> Response:
        """Answers with what is forgotten. Sets of `label_sets_file` stay."""
        return await _reply(engine, request, engine.classifier.sets.remove(name))

    return router


async def _reply(engine: Engine, request: Request, label_set: LabelSet) -> Response:
    payload: dict[str, Any] = {"name": label_set.name, **label_set.spec.model_dump(), "origin": label_set.origin}
    num_labels = len(label_set.spec.labels)
    return await reply(
        engine, {"label_set": payload, "encoder": engine.identity.fingerprint}, num_labels, context_of(request)
    )
