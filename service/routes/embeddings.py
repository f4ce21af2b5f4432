"""``POST /v1/embeddings`` and ``GET /v1/models``: the routes that OpenAI's clients use."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.edge.bodies import read_json
from service.edge.problems import ModelUnknown
from service.engine import Engine
from service.openapi import examples, schemas
from service.openapi.documentation import IMAGE_ROUTE, json_body, openai_answers
from service.routes import openai_dialect
from service.routes.replies import context_of, reply
from sightline.errors import QueryError, TextError


def embeddings_router(engine: Engine) -> APIRouter:
    """The routes under ``/v1`` that speak OpenAI's dialect, errors included."""
    router = APIRouter(prefix="/v1")
    identity = engine.identity

    @router.post(
        "/embeddings", tags=["embeddings"], operation_id="createEmbeddings", summary="Vectors of texts and pictures",
        responses=openai_answers(
            schemas.EmbeddingsAnswer, examples.EMBEDDINGS_ANSWER, (*IMAGE_ROUTE, TextError, QueryError, ModelUnknown)
        ),
        openapi_extra=json_body(schemas.EmbeddingsBody, **examples.EMBEDDINGS),
    )  # fmt: skip
    async def embeddings(request: Request) -> Response:
        """OpenAI's embeddings, for texts and pictures alike: an unmodified `openai` client works.

        Vectors have length 1. Pictures are base64, data URIs, or https addresses of hosts that the operator allows.
        """
        context = context_of(request)
        body = await read_json(request, schemas.EmbeddingsBody, engine.offload)
        openai_dialect.check_request(body, identity.name, identity.fingerprint, identity.dim)
        given = await engine.offload(openai_dialect.inputs_of, body, engine.settings.max_image_bytes)
        inputs = await engine.fetcher.fill_in(given, context)
        vectors = await engine.embed(inputs, context)
        payload = await engine.offload(openai_dialect.answer, vectors, body, identity.name, identity.fingerprint)
        return await reply(engine, payload, len(vectors), context)

    @router.get(
        "/models", tags=["service"], operation_id="listModels", summary="The encoder that is served",
        responses=openai_answers(schemas.ModelsAnswer, examples.MODELS_ANSWER, ()),
    )  # fmt: skip
    async def models(request: Request) -> Response:
        """OpenAI's list of models, with one entry. `untrained` weights give vectors without meaning."""
        model = {
            "id": identity.name,
            "object": "model",
            "created": int(datetime.fromisoformat(engine.snapshot.generation.manifest.created).timestamp()),
            "owned_by": "sightline",
            "fingerprint": identity.fingerprint,
            "dim": identity.dim,
            "untrained": identity.untrained,
            "licence": identity.licence,
            "precision": identity.precision,
            "score_kind": identity.score_scale.kind,
        }
        return await reply(engine, {"object": "list", "data": [model]}, 1, context_of(request))

    return router
