"""What is served: items, thumbnails, collections and limits."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answers import envelope, item_details
from service.engine import Engine
from service.label_sets import MAX_LABEL_SETS
from service.live_items import MAX_ITEM_ID_CHARS, MAX_METADATA_BYTES
from service.openapi import dialects, examples, schemas
from service.openapi.documentation import answers, raw_answer
from service.routes.replies import context_of, reply
from service.zero_shot import MAX_LABEL_CHARS, MAX_LABELS, MAX_PROMPTS, MAX_TEMPLATES
from sightline.errors import NotFound
from sightline.filters import MAX_CONDITIONS, MAX_VALUES

_THUMBNAIL_HEADERS = {"Cache-Control": "private, max-age=60", "Content-Disposition": "inline; filename=thumbnail.webp"}


def catalogue_router(engine: Engine) -> APIRouter:
    """The reading routes under ``/v1``."""
    router = APIRouter(prefix="/v1")

    @router.get(
        "/items/{item_id:path}/thumbnail", tags=["items"], operation_id="getThumbnail", summary="A small picture",
        response_class=Response,
        responses={
            **answers(schemas.ItemAnswer, None, (NotFound,)),
            200: raw_answer("The thumbnail.", "image/webp", binary=True),
            304: {"description": "The thumbnail named by If-None-Match is still the right one."},
        },
    )  # fmt: skip
    async def thumbnail(request: Request, item_id: str) -> Response:
        """An item's thumbnail, re-encoded as WebP when the collection was built; never the uploaded bytes."""
        for _ in range(2):  # a later change takes the thumbnail of the one before with it
            snapshot = engine.snapshot
            row = await engine.row_of(snapshot, item_id)
            tag = f'"{snapshot.thumbnail_tag(row)}"'
            headers = {**_THUMBNAIL_HEADERS, "ETag": tag}
            if tag in request.headers.get("if-none-match", ""):
                return Response(status_code=304, headers=headers)
            data = await engine.offload(snapshot.thumbnail, row)
            if data is not None or snapshot is engine.snapshot:
                break
        if data is None:
            raise NotFound("This collection was built without thumbnails; build it again with them.")
        return Response(data, media_type="image/webp", headers=headers)

    @router.get(
        "/items/{item_id:path}", tags=["items"], operation_id="getItem", summary="One item of the collection",
        responses=answers(schemas.ItemAnswer, examples.ITEM_ANSWER, (NotFound,)),
    )  # fmt: skip
    async def item(request: Request, item_id: str) -> Response:
        """Captions, size and metadata of an item. Ids come from search results; percent-encode them in the path."""
        snapshot = engine.snapshot
        row = await engine.row_of(snapshot, item_id)
        item = snapshot.item(row) if snapshot.local else await engine.offload(snapshot.item, row)
        payload = {"item": item_details(item), **envelope(snapshot)}
        return await reply(engine, payload, 1, context_of(request))

    @router.get(
        "/collections", tags=["service"], operation_id="listCollections", summary="The collection that is served",
        responses=answers(schemas.CollectionsAnswer, examples.COLLECTIONS_ANSWER, ()),
    )  # fmt: skip
    async def collections(request: Request) -> Response:
        """Name, generation, encoder and counts of what is served."""
        snapshot = engine.snapshot
        generation = snapshot.generation
        entry = {
            "name": generation.name,
            "generation": generation.generation,
            "encoder": generation.manifest.encoder.fingerprint,
            "encoder_name": generation.manifest.encoder.name,
            "num_items": snapshot.num_items,
            "num_captions": snapshot.num_captions,
            "created": generation.manifest.created,
        }
        return await reply(engine, {"collections": [entry]}, 1, context_of(request))

    @router.get(
        "/limits", tags=["service"], operation_id="getLimits", summary="Every limit",
        responses=answers(schemas.LimitsAnswer, examples.LIMITS_ANSWER, ()),
    )  # fmt: skip
    async def limits(request: Request) -> Response:
        """The limits that can refuse a request, so that a client need not find them by trying."""
        return await reply(engine, limits_of(engine), 1, context_of(request))

    return router


def limits_of(engine: Engine) -> dict[str, object]:
    """Every limit by name."""
    settings = engine.settings
    images, texts = settings.image_limits, settings.text_limits
    return {
        "max_k": schemas.MAX_K,
        "max_texts": schemas.MAX_TEXTS,
        "max_openai_inputs": dialects.MAX_OPENAI_INPUTS,
        "max_text_chars": texts.max_chars,
        "max_word_chars": texts.max_word_chars,
        "max_labels": MAX_LABELS,
        "max_label_chars": MAX_LABEL_CHARS,
        "max_templates": MAX_TEMPLATES,
        "max_prompts": MAX_PROMPTS,
        "max_label_sets": MAX_LABEL_SETS,
        "max_captions": schemas.MAX_CAPTIONS,
        "max_metadata_bytes": MAX_METADATA_BYTES,
        "max_item_id_chars": MAX_ITEM_ID_CHARS,
        "max_body_bytes": settings.max_body_bytes,
        "max_image_bytes": images.max_bytes,
        "max_image_pixels": images.max_pixels,
        "max_image_side_px": images.max_side_px,
        "max_image_aspect_ratio": images.max_aspect_ratio,
        "image_formats": list(images.formats),
        "max_filter_conditions": MAX_CONDITIONS,
        "max_filter_values": MAX_VALUES,
        "max_image_urls": engine.fetcher.max_urls,
        "max_header_bytes": settings.max_header_bytes,
        "max_connections": settings.max_connections,
        "max_inflight_requests": settings.max_inflight_requests,
        "max_queue_units": settings.max_queue_units,
        "default_timeout_seconds": settings.default_timeout_seconds,
        "max_timeout_seconds": settings.max_timeout_seconds,
        "header_timeout_seconds": settings.header_timeout_seconds,
        "receive_timeout_seconds": settings.receive_timeout_seconds,
        "min_receive_bytes_per_second": settings.min_receive_bytes_per_second,
    }
