"""``POST /knn-service``, ``POST /metadata`` and ``GET /indices-list``: the routes that clip-retrieval's clients use."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import RootModel
from starlette.requests import Request
from starlette.responses import Response

from service.answers import row_metadata
from service.edge.bodies import read_json
from service.edge.fetching import ImageAddress
from service.engine import Engine
from service.openapi import dialects, examples
from service.openapi.documentation import BODY_ERRORS, IMAGE_ROUTE, answers, json_body
from service.routes import clip_retrieval_dialect as dialect
from service.routes.direct import DirectRoute
from service.routes.replies import context_of, reply
from sightline.errors import NotFound, QueryError


class KnnAnswer(RootModel[list[dialects.KnnResult]]):
    """A bare list, best first."""


class MetadataAnswer(RootModel[list[dialects.RowMetadata]]):
    """A bare list, in the order of the ids."""


class IndicesAnswer(RootModel[list[str]]):
    """A bare list of names."""


def clip_retrieval_router(engine: Engine) -> APIRouter:
    """clip-retrieval's routes, at the root as its clients expect."""
    router = APIRouter(tags=["clip-retrieval"], route_class=DirectRoute)

    @router.post(
        "/knn-service", operation_id="knnService", summary="Search, in clip-retrieval's dialect",
        responses=answers(KnnAnswer, examples.KNN_ANSWER, (*IMAGE_ROUTE, QueryError, NotFound)),
        openapi_extra=json_body(dialects.KnnServiceBody, **examples.KNN_SERVICE),
    )  # fmt: skip
    async def knn_service(request: Request) -> Response:
        """The pictures (`modality` image) or captions (text) nearest to a text, a picture or a vector.

        Options of clip-retrieval's own pipeline are accepted; `Sightline-Ignored` names those without effect.
        """
        context = context_of(request)
        body = await read_json(request, dialects.KnnServiceBody, engine.offload)
        question = await engine.offload(
            dialect.question_of,
            body,
            engine.snapshot.generation.name,
            engine.identity.dim,
            engine.settings.max_image_bytes,
        )
        if isinstance(question, ImageAddress):
            question = await engine.fetcher.fetch(question, context)
        vectors = await engine.embed([question], context) if isinstance(question, str | bytes) else question[None]
        results = await engine.search_rows(vectors, body.num_images, context, captions=body.modality == "text")
        response = await reply(engine, results, len(results), context)
        ignored = dialect.ignored_options(body)
        if ignored:
            response.headers[dialect.IGNORED_HEADER] = ignored
        return response

    @router.post(
        "/metadata", operation_id="knnMetadata", summary="Metadata of rows, in clip-retrieval's dialect",
        responses=answers(
            MetadataAnswer, examples.METADATA_ANSWER, (*BODY_ERRORS, QueryError, NotFound)
        ),
        openapi_extra=json_body(dialects.MetadataBody, **examples.METADATA),
    )  # fmt: skip
    async def metadata(request: Request) -> Response:
        """What the collection knows of the rows that `POST /knn-service` named by `id`, in the order asked for."""
        body = await read_json(request, dialects.MetadataBody, engine.offload)
        snapshot = engine.snapshot
        dialect.check_index(body.indice_name, snapshot.generation.name)
        found = await engine.offload(row_metadata, snapshot, body.ids)
        return await reply(engine, found, len(found), context_of(request))

    @router.get(
        "/indices-list", operation_id="listIndices", summary="Names, in clip-retrieval's dialect",
        responses=answers(IndicesAnswer, ["photos"], ()),
    )  # fmt: skip
    async def indices_list(request: Request) -> Response:
        """The name of the collection, as a list."""
        return await reply(engine, [engine.snapshot.generation.name], 1, context_of(request))

    return router
