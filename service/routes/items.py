"""Changing items while they are served. Keys are checked before these routes; reading them is in ``catalogue``."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from service.answers import envelope
from service.edge.bodies import read_image
from service.edge.problems import LiveFull, LiveUnavailable, LiveWritesOff
from service.engine import Engine
from service.live import Written
from service.openapi import examples, schemas
from service.openapi.documentation import IMAGE_ROUTE, answers, image_body
from service.routes.replies import cache_header, context_of, to_json
from sightline.errors import DeadlineExceeded, NotFound, NotReady, QueryError, StorageError, TextError

_REFUSALS = (LiveWritesOff, LiveUnavailable, StorageError)


class ItemRoute(APIRoute):
    """Ids may hold slashes, so ``/v1/items/{id}`` would take the path of a picture's thumbnail for an id."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.NONE, {}) if scope["path"].endswith("/thumbnail") else super().matches(scope)


def items_router(engine: Engine) -> APIRouter:
    """``PUT`` and ``DELETE`` under ``/v1/items``."""
    router = APIRouter(prefix="/v1", tags=["items"], route_class=ItemRoute)
    put_answers = answers(
        schemas.WrittenAnswer, examples.WRITTEN_ANSWER | {"status": "replaced"},
        (*IMAGE_ROUTE, TextError, QueryError, LiveFull, *_REFUSALS),
    )  # fmt: skip
    created = answers(schemas.WrittenAnswer, examples.WRITTEN_ANSWER, ())[200]

    @router.put(
        "/items/{item_id:path}", operation_id="putItem", summary="Put a picture into the collection",
        responses={**put_answers, 201: {**created, "description": "There was no item with this id before."}},
        openapi_extra=image_body(schemas.ItemBody, schemas.ItemParameters, **examples.ITEM),
    )  # fmt: skip
    async def put_item(request: Request, item_id: str) -> Response:
        """Add a picture with its captions and metadata, or replace the item of this id, whole. The answer comes when
        the change is on the disk and every search finds it; sent again it changes nothing. Needs the setting
        `live_writes` and, where there are keys, an admin's.

        An item is a picture: captions without one are refused.
        """
        context = context_of(request)
        engine.live.check_writable()
        with context.stage("receive"):
            asked = await read_image(
                request, schemas.ItemParameters, schemas.ItemBody, max_image_bytes=engine.settings.max_image_bytes,
                offload=engine.offload, fetch=lambda address: engine.fetcher.fetch(address, context),
            )  # fmt: skip
        wanted = asked.parameters
        written = await engine.items.put(
            item_id, asked.image, wanted.captions, wanted.metadata, wanted.uri, context
        )  # fmt: skip
        return _answer(request, item_id, written, "replaced" if written.existed else "created")

    @router.delete(
        "/items/{item_id:path}", operation_id="deleteItem", summary="Take an item out of the collection",
        responses=answers(
            schemas.WrittenAnswer, examples.DELETED_ANSWER, (NotFound, NotReady, DeadlineExceeded, *_REFUSALS)
        ),
    )  # fmt: skip
    async def delete_item(request: Request, item_id: str) -> Response:
        """Take the item of this id out, with its captions. The answer comes when the change is on the disk and no
        search finds the item any more; 404 says that there is none. Needs what `PUT` needs."""
        written = await engine.items.delete(item_id, context_of(request))
        return _answer(request, item_id, written, "deleted")

    return router


def _answer(request: Request, item_id: str, written: Written, status: str) -> Response:
    payload = {"id": item_id, "status": status, "sequence": written.sequence, **envelope(written.snapshot)}
    return Response(
        to_json(payload), 201 if status == "created" else 200, media_type="application/json",
        headers=cache_header(context_of(request)),
    )  # fmt: skip
