"""``POST /v1/embeddings`` and ``GET /v1/models``: the routes that OpenAI's clients use."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.context import RequestContext
from service.edge.bodies import read_json
from service.edge.problems import ModelUnknown
from service.engine import Engine
from service.openapi import dialects, examples
from service.openapi.documentation import IMAGE_ROUTE, json_body, openai_answers, with_raw
from service.routes import openai_dialect
from service.routes.direct import DirectRoute
from service.routes.replies import cache_header, context_of, reply
from sightline.errors import QueryError, TextError

_INLINE_VECTORS = 4


def embeddings_router(engine: Engine) -> APIRouter:
    """The routes under ``/v1`` that speak OpenAI's dialect, errors included."""
    router = APIRouter(prefix="/v1", route_class=DirectRoute)
    identity = engine.identity

    @router.post(
        "/embeddings", tags=["embeddings"], operation_id="createEmbeddings", summary="Vectors of texts and pictures",
        responses=with_raw(openai_answers(
            dialects.EmbeddingsAnswer, examples.EMBEDDINGS_ANSWER, (*IMAGE_ROUTE, TextError, QueryError, ModelUnknown)
        )),
        openapi_extra=json_body(dialects.EmbeddingsBody, **examples.EMBEDDINGS),
    )  # fmt: skip
    async def embeddings(request: Request) -> Response:
        """OpenAI's embeddings, for texts and pictures alike: an unmodified `openai` client works.

        Vectors have length 1; `dimensions` cuts them and makes their length 1 again. With `Accept:
        application/octet-stream` the answer is nothing but little-endian float32, row after row, and the header
        `X-Sightline-Shape` has their number and dimension. `usage` is always 0: nothing is billed, so tokens are not
        counted; a text longer than the encoder's context is cut by its tokenizer without notice. Pictures are base64,
        data URIs, or https addresses of hosts that the operator allows.
        """
        context = context_of(request)
        body = await read_json(request, dialects.EmbeddingsBody, engine.offload)
        openai_dialect.check_request(body, identity.name, identity.fingerprint, identity.dim)
        max_bytes = engine.settings.max_image_bytes
        if openai_dialect.is_small(body):
            given = openai_dialect.inputs_of(body, max_bytes)
        else:
            given = await engine.offload(openai_dialect.inputs_of, body, max_bytes)
        inputs = await engine.fetcher.fill_in(given, context)
        vectors = openai_dialect.shortened(await engine.embed(inputs, context), body.dimensions)  # [B, d]
        if openai_dialect.RAW_TYPE in request.headers.get("accept", ""):
            return _raw(vectors, identity.fingerprint, context)
        if len(vectors) <= _INLINE_VECTORS:
            payload = openai_dialect.answer(vectors, body, identity.name, identity.fingerprint)
        else:
            payload = await engine.offload(openai_dialect.answer, vectors, body, identity.name, identity.fingerprint)
        return await reply(engine, payload, len(vectors), context)

    @router.get(
        "/models", tags=["service"], operation_id="listModels", summary="The encoder that is served",
        responses=openai_answers(dialects.ModelsAnswer, examples.MODELS_ANSWER, ()),
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


def _raw(vectors: openai_dialect.Vectors, fingerprint: str, context: RequestContext) -> Response:
    """Vectors float32 ``[B, D]`` as bytes."""
    shape = ",".join(map(str, vectors.shape))
    headers = {"X-Sightline-Shape": shape, "X-Sightline-Encoder": fingerprint, **cache_header(context)}
    return Response(
        openai_dialect.little_endian(vectors).tobytes(), media_type=openai_dialect.RAW_TYPE, headers=headers
    )
