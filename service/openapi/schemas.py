"""What goes in and what comes out, as the OpenAPI document shows it. Unknown keys are refused everywhere.

Answers are built as plain dictionaries, for speed; a test validates them against these models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.label_sets import Labels, LabelSetSpec, NoneThreshold, Templates
from sightline.collection import GENERATION_PATTERN
from sightline.errors import QueryError

MAX_K = 1000
MAX_TEXTS = 64
MAX_OPENAI_INPUTS = 2048

K = Annotated[int, Field(ge=1, le=MAX_K, description="How many results, best first.")]
MinScore = Annotated[
    float, Field(ge=-1.0, le=1.0, allow_inf_nan=False, description="Leave out results below this cosine.")
]
FilterJson = Annotated[
    dict[str, Any],
    Field(
        description="Conditions on metadata: must, should, must_not.",
        examples=[{"must": [{"key": "label", "match": "cat"}]}],
    ),
]
Base64Image = Annotated[
    str,
    Field(
        description="The picture's bytes in base64, a data:image/…;base64,… URI, or an https address of a host that "
        "the operator allows (none by default)."
    ),
]


class Body(BaseModel):
    """Something sent to us."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchParameters(Body):
    """The parameters every search takes, whatever it searches with."""

    k: K = 10
    filter: FilterJson | None = None
    min_score: MinScore | None = None


class TextToImageBody(SearchParameters):
    text: (
        Annotated[str, Field(description="What to look for.")]
        | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS, description="Several at once.")]
    )


class ImageSearchBody(SearchParameters):
    image: Base64Image


class ZeroShotParameters(Body):
    """``labels`` or ``label_set``, one of the two; ``templates`` only with ``labels``."""

    labels: Labels | None = None
    templates: Templates | None = None
    label_set: Annotated[str, Field(description="The name of labels registered before.")] | None = None
    none_threshold: NoneThreshold | None = None


class ZeroShotBody(ZeroShotParameters):
    image: Base64Image


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


class Envelope(BaseModel):
    """Every answer says what it was computed from."""

    model_config = ConfigDict(extra="forbid")

    collection: str
    generation: str
    encoder: Annotated[str, Field(description="Fingerprint of the encoder, 64 hex digits.")]


class Result(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    score: Annotated[float, Field(ge=-1.0, le=1.0, description="Cosine of query and result.")]
    caption: str | None
    uri: str
    metadata: dict[str, Any]
    thumbnail: str


class SearchAnswer(Envelope):
    results: list[Result]


class TextToImageAnswer(Envelope):
    results: Annotated[
        list[Result] | list[list[Result]], Field(description="A list of lists, in order, when text was a list.")
    ]


class LabelScore(BaseModel):
    model_config = ConfigDict(extra="forbid")

    label: str
    probability: Annotated[float, Field(ge=0.0, le=1.0)]
    score: Annotated[float, Field(ge=-1.0, le=1.0)]


class ZeroShotAnswer(Envelope):
    results: Annotated[list[LabelScore], Field(description="Every label, best first, also when it is none of them.")]
    kind: Literal["softmax", "sigmoid"]
    none: Annotated[bool | None, Field(description="Whether it is none of the labels; null without a threshold.")]


class LabelSetSummary(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    num_labels: int
    num_templates: int
    none_threshold: float | None
    origin: Literal["file", "api"]


class LabelSetsAnswer(BaseModel):
    label_sets: list[LabelSetSummary]


class LabelSetDetails(LabelSetSpec):
    name: str
    origin: Literal["file", "api"]


class LabelSetAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    label_set: LabelSetDetails
    encoder: str


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


class ItemDetails(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    uri: str
    captions: list[str]
    width_px: int
    height_px: int
    metadata: dict[str, Any]
    thumbnail: str


class ItemAnswer(Envelope):
    item: ItemDetails


class CollectionDetails(BaseModel):
    name: str
    generation: str
    encoder: str
    encoder_name: str
    num_items: int
    num_captions: int
    created: str


class CollectionsAnswer(BaseModel):
    collections: list[CollectionDetails]


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


class LimitsAnswer(BaseModel):
    """Every limit that can refuse a request."""

    max_k: int
    max_texts: int
    max_openai_inputs: int
    max_text_chars: int
    max_word_chars: int
    max_labels: int
    max_label_chars: int
    max_templates: int
    max_prompts: int
    max_label_sets: int
    max_body_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_image_side_px: int
    max_image_aspect_ratio: float
    image_formats: list[str]
    max_image_urls: Annotated[int, Field(description="Addresses of pictures in one request; 0: none are fetched.")]
    max_header_bytes: int
    max_connections: int
    max_inflight_requests: int
    max_queue_units: int
    default_timeout_seconds: float
    max_timeout_seconds: float
    header_timeout_seconds: float
    receive_timeout_seconds: float
    min_receive_bytes_per_second: int


class ReloadBody(Body):
    generation: str | None = Field(
        default=None,
        pattern=GENERATION_PATTERN,
        description="A generation of the collection by its name; without it, the one that CURRENT names.",
    )


class ChangeAnswer(BaseModel):
    """What a reload or a rollback did."""

    model_config = ConfigDict(extra="forbid")

    collection: str
    encoder: str
    before: Annotated[str, Field(description="The generation that was served.")]
    now: Annotated[str, Field(description="The generation that is served.")]
    changed: Annotated[bool, Field(description="False when the one asked for is the one that was served.")]
    num_items: int
    num_captions: int
    seconds: Annotated[float, Field(description="How long it took to load, verify and prove it.")]


class Status(BaseModel):
    status: Literal["alive", "ready"]


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
