"""Search: text to image, image to text, image to image; and naming what an image shows."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answers import envelope
from service.edge.bodies import ImageRequest, read_image, read_json
from service.engine import Engine
from service.openapi import examples, schemas
from service.openapi.documentation import IMAGE_ROUTE, TEXT_ROUTE, answers, image_body, json_body
from service.routes.replies import context_of, reply
from sightline.errors import QueryError, TextError


def search_router(engine: Engine) -> APIRouter:
    """The routes under ``/v1`` that search or classify."""
    router = APIRouter(prefix="/v1")

    async def image_request(request: Request) -> ImageRequest[schemas.SearchParameters]:
        with context_of(request).stage("receive"):
            return await read_image(
                request, schemas.SearchParameters, schemas.ImageSearchBody,
                max_image_bytes=engine.settings.max_image_bytes, offload=engine.offload,
            )  # fmt: skip

    @router.post(
        "/text-to-image", tags=["search"], operation_id="textToImage", summary="Find pictures with words",
        responses=answers(schemas.TextToImageAnswer, examples.SEARCH_ANSWER, (*TEXT_ROUTE, TextError, QueryError)),
        openapi_extra=json_body(schemas.TextToImageBody, **examples.TEXT_TO_IMAGE),
    )  # fmt: skip
    async def text_to_image(request: Request) -> Response:
        """The pictures nearest to a text, best first. With a list of texts, `results` is a list of lists in order."""
        context = context_of(request)
        body = await read_json(request, schemas.TextToImageBody, engine.offload)
        texts = body.text if isinstance(body.text, list) else [body.text]
        snapshot, found = await engine.search_images(texts, body.k, body.filter, body.min_score, context)
        results = found if isinstance(body.text, list) else found[0]
        return await reply(engine, {"results": results, **envelope(snapshot)}, len(texts) * body.k, context)

    @router.post(
        "/image-to-text", tags=["search"], operation_id="imageToText", summary="Find captions with a picture",
        responses=answers(schemas.SearchAnswer, examples.SEARCH_ANSWER, (*IMAGE_ROUTE, QueryError)),
        openapi_extra=image_body(schemas.ImageSearchBody, schemas.SearchParameters, **examples.IMAGE_SEARCH),
    )  # fmt: skip
    async def image_to_text(request: Request) -> Response:
        """The captions nearest to a picture, best first; `id` is the item a caption belongs to."""
        context = context_of(request)
        asked = await image_request(request)
        wanted = asked.parameters
        snapshot, found = await engine.search_captions(
            [asked.image], wanted.k, wanted.filter, wanted.min_score, context
        )
        return await reply(engine, {"results": found[0], **envelope(snapshot)}, wanted.k, context)

    @router.post(
        "/image-to-image", tags=["search"], operation_id="imageToImage", summary="Find pictures like a picture",
        responses=answers(schemas.SearchAnswer, examples.SEARCH_ANSWER, (*IMAGE_ROUTE, QueryError)),
        openapi_extra=image_body(schemas.ImageSearchBody, schemas.SearchParameters, **examples.IMAGE_SEARCH),
    )  # fmt: skip
    async def image_to_image(request: Request) -> Response:
        """The pictures nearest to a picture, best first."""
        context = context_of(request)
        asked = await image_request(request)
        wanted = asked.parameters
        snapshot, found = await engine.search_images([asked.image], wanted.k, wanted.filter, wanted.min_score, context)
        return await reply(engine, {"results": found[0], **envelope(snapshot)}, wanted.k, context)

    @router.post(
        "/zero-shot", tags=["zero-shot"], operation_id="zeroShot", summary="Name what a picture shows",
        responses=answers(schemas.ZeroShotAnswer, examples.ZERO_SHOT_ANSWER, (*IMAGE_ROUTE, QueryError)),
        openapi_extra=image_body(schemas.ZeroShotBody, schemas.ZeroShotParameters, **examples.ZERO_SHOT),
    )  # fmt: skip
    async def zero_shot(request: Request) -> Response:
        """How probable each of your labels is, best first.

        `kind` says how the checkpoint was trained: with `softmax` the probabilities add up to 1; with `sigmoid` each
        label stands alone, so none or several may be probable.
        """
        context = context_of(request)
        with context.stage("receive"):
            asked = await read_image(
                request, schemas.ZeroShotParameters, schemas.ZeroShotBody,
                max_image_bytes=engine.settings.max_image_bytes, offload=engine.offload,
            )  # fmt: skip
        snapshot = engine.snapshot
        results = await engine.classify(asked.image, asked.parameters.labels, asked.parameters.templates, context)
        payload = {"results": results, "kind": engine.identity.score_scale.kind, **envelope(snapshot)}
        return await reply(engine, payload, len(results), context)

    return router
