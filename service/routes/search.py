"""Search: text to image, image to text, image to image; and naming what an image shows."""

from __future__ import annotations

from typing import TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from service.answers import envelope
from service.edge.bodies import ImageRequest, read_image, read_json
from service.engine import Engine
from service.openapi import examples, schemas
from service.openapi.documentation import IMAGE_ROUTE, TEXT_ROUTE, answers, image_body, json_body
from service.routes.direct import DirectRoute
from service.routes.replies import context_of, reply
from sightline.errors import NotFound, QueryError, TextError

B = TypeVar("B", bound=BaseModel)


def search_router(engine: Engine) -> APIRouter:
    """The routes under ``/v1`` that search or classify."""
    router = APIRouter(prefix="/v1", route_class=DirectRoute)

    async def received(request: Request, parameters: type[B], json_body: type[B]) -> ImageRequest[B]:
        context = context_of(request)
        with context.stage("receive"):
            return await read_image(
                request, parameters, json_body, max_image_bytes=engine.settings.max_image_bytes,
                offload=engine.offload, fetch=lambda address: engine.fetcher.fetch(address, context),
            )  # fmt: skip

    async def image_request(request: Request) -> ImageRequest[schemas.SearchParameters]:
        return await received(request, schemas.SearchParameters, schemas.ImageSearchBody)

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
        responses=answers(schemas.ZeroShotAnswer, examples.ZERO_SHOT_ANSWER, (*IMAGE_ROUTE, QueryError, NotFound)),
        openapi_extra=image_body(schemas.ZeroShotBody, schemas.ZeroShotParameters, **examples.ZERO_SHOT),
    )  # fmt: skip
    async def zero_shot(request: Request) -> Response:
        """How probable each of your labels is, best first. Give `labels`, or the name of a registered `label_set`.

        `kind` says how the checkpoint was trained: with `softmax` the probabilities add up to 1; with `sigmoid` each
        label stands alone, so none or several may be probable. With a `none_threshold` (of the request, or of the
        set) `none` says whether the best label stays below it: its score with `softmax`, its probability with
        `sigmoid`. The results are complete either way.
        """
        context = context_of(request)
        asked = await received(request, schemas.ZeroShotParameters, schemas.ZeroShotBody)
        snapshot = engine.snapshot
        wanted = asked.parameters
        found = await engine.classify(
            asked.image, wanted.labels, wanted.templates, wanted.label_set, wanted.none_threshold, context
        )
        kind = engine.identity.score_scale.kind
        payload = {"results": found.results, "kind": kind, "none": found.none, **envelope(snapshot)}
        return await reply(engine, payload, len(found.results), context)

    return router
