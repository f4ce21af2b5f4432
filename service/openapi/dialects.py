"""Bodies and answers of the dialects: OpenAI's embeddings (with Infinity's and vLLM's additions) and clip-retrieval's.

Unknown keys are refused here as everywhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.openapi.schemas import MAX_K, Base64Image, Body, K
from sightline.errors import QueryError

MAX_OPENAI_INPUTS = 2048


class ImageUrl(Body):
    url: str
    detail: str | None = None


class EmbeddingItem(Body):
    """One input that is not a plain string: ``{"text": …}``, ``{"image": …}`` or OpenAI's ``image_url`` part."""

    type: Literal["text", "image", "image_url"] | None = None
    text: str | None = None
    image: Base64Image | None = None
    image_url: ImageUrl | str | None = None


class Message(Body):
    """A chat message, as vLLM takes it."""

    role: str = "user"
    content: str | Annotated[list[EmbeddingItem], Field(min_length=1)]


Inputs = Annotated[list[str | EmbeddingItem], Field(min_length=1, max_length=MAX_OPENAI_INPUTS)]
Conversation = Annotated[list[Message], Field(min_length=1)]
Conversations = Annotated[list[Conversation], Field(min_length=1, max_length=MAX_OPENAI_INPUTS)]


class EmbeddingsBody(Body):
    """OpenAI's body for ``POST /v1/embeddings``, with pictures among the inputs. ``input`` or ``messages``."""

    input: str | EmbeddingItem | Inputs | None = None
    messages: Annotated[
        Conversation | Conversations | None,
        Field(description="vLLM's form of one input, or a list of such: chat messages with one text or one picture."),
    ] = None
    modality: Annotated[
        Literal["text", "image"] | None,
        Field(description="Infinity's way to say what the strings are; by default a data:image/… URI is a picture."),
    ] = None
    model: str | None = Field(
        default=None, description="The served encoder's name, as GET /v1/models gives it, or leave it out."
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        default=None, ge=1, description="Cut the vectors to so many numbers and give them length 1 again."
    )
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _no_tokens(cls, value: object) -> object:
        """OpenAI takes token ids as well: a list of whole numbers, or a list of such lists."""
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, int) or (isinstance(first, list) and all(isinstance(one, int) for one in first)):
            raise QueryError("Token ids are not taken: each model has its own; send the texts themselves.")
        return value


class KnnServiceBody(Body):
    """clip-retrieval's body for ``POST /knn-service``. Keys whose work is done elsewhere or not at all are accepted."""

    text: str | None = None
    image: Base64Image | None = None
    image_url: str | None = None
    embedding_input: list[Annotated[float, Field(allow_inf_nan=False)]] | None = None
    modality: Literal["image", "text"] = "image"
    num_images: K = 40
    num_result_ids: int | None = None
    indice_name: str | None = None
    use_mclip: bool | None = None
    deduplicate: bool | None = None
    use_safety_model: bool | None = None
    use_violence_detector: bool | None = None
    aesthetic_score: str | float | None = None
    aesthetic_weight: str | float | None = None


class MetadataBody(Body):
    """clip-retrieval's body for ``POST /metadata``."""

    ids: Annotated[list[int], Field(max_length=MAX_K, description="Rows, as `id` of POST /knn-service gives them.")]
    indice_name: str | None = None


class Embedding(BaseModel):
    model_config = ConfigDict(extra="forbid")

    object: Literal["embedding"]
    index: int
    embedding: Annotated[list[float] | str, Field(description="Floats, or little-endian float32 in base64.")]


class Usage(BaseModel):
    prompt_tokens: Annotated[int, Field(description="Always 0: tokens are not counted because nothing is billed.")]
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    sightline: Annotated[dict[str, str], Field(description="Our one extra key: the encoder's fingerprint.")]


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    error: OpenAIErrorDetail
    request_id: str


class Model(BaseModel):
    """OpenAI's model object and what Sightline adds to it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    fingerprint: str
    dim: int
    untrained: bool
    licence: str
    precision: str
    score_kind: Literal["softmax", "sigmoid"]


class ModelsAnswer(BaseModel):
    object: Literal["list"]
    data: list[Model]


class KnnResult(BaseModel):
    """clip-retrieval's result: ``id`` is the row; the item's metadata is spread beside these keys."""

    model_config = ConfigDict(extra="allow")

    id: int
    similarity: float
    url: str
    caption: str | None
    item_id: str


class RowMetadata(BaseModel):
    """clip-retrieval's answer for one row: url, caption, item_id and the item's own metadata."""

    id: int
    metadata: dict[str, Any]
