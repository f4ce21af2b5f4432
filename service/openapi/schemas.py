"""What goes in and what comes out, as the OpenAPI document shows it. Unknown keys are refused everywhere.

Answers are built as plain dictionaries, for speed; a test validates them against these models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.label_sets import Labels, LabelSetSpec, NoneThreshold, Templates
from sightline.collection import GENERATION_PATTERN

MAX_K = 1000
MAX_CAPTIONS = 30
"""Of one item: with its picture they stay below what counts as bulk work by default."""
MAX_TEXTS = 64
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


class ItemParameters(Body):
    """What is said of a picture that is put."""

    captions: Annotated[
        list[str], Field(max_length=MAX_CAPTIONS, description="Captions that find the picture and are found by it.")
    ] = []
    metadata: Annotated[
        dict[str, Any], Field(description="What filters look at; at most 64 KiB of JSON.", examples=[{"year": 2024}])
    ] = {}
    uri: Annotated[str, Field(max_length=2048, description="Where the picture is from; the id by default.")] = ""


class ItemBody(ItemParameters):
    image: Base64Image


class WrittenAnswer(Envelope):
    """A change that is on the disk and is found."""

    id: str
    status: Literal["created", "replaced", "deleted"]
    sequence: Annotated[int, Field(description="The number of this change in the collection's log; numbers grow.")]


class CompactAnswer(BaseModel):
    """What building live changes into a generation did."""

    model_config = ConfigDict(extra="forbid")

    collection: str
    encoder: str
    before: Annotated[str, Field(description="The generation that was served.")]
    now: Annotated[str, Field(description="The generation that is served.")]
    changed: Annotated[bool, Field(description="False when there were no changes to build in.")]
    sequence: Annotated[int, Field(description="The last change that the generation contains.")]
    num_items: int
    num_captions: int
    num_pruned: Annotated[int, Field(description="Changes that the log let go of: all generations contain them.")]
    seconds: float


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
    max_captions: int
    max_metadata_bytes: int
    max_item_id_chars: int
    max_body_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_image_side_px: int
    max_image_aspect_ratio: float
    image_formats: list[str]
    max_filter_conditions: int
    max_filter_values: Annotated[int, Field(description="Values in one any of a filter.")]
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
