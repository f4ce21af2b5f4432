"""The [data] table of a recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.data.augmentation import AugmentationSettings
from training.data.captions import CaptionSettings
from training.data.negatives import NegativeSettings
from training.data.neighbours import MiningSettings


class DataSettings(BaseModel):
    """What is done with the captioned pictures before a step sees them. Everything is off by default.

    ``captions_per_image`` different captions of each picture come into its batch, all of them its positives.
    ``equal_captions_are_positives``: a caption that another picture of the batch has too is a positive of both.
    ``no_duplicates``: no two pictures of a batch have the same content or the same chosen caption. ``balance_by`` is a
    metadata key whose values come equally often. ``relevance_key`` is a metadata key with how well the captions fit, 0
    to 1: a number, or one for each caption. ``allow_leakage`` trains although pictures of the evaluation data are among
    the training data. ``mine_with`` is an encoder spec: hard neighbours that this encoder finds come into one batch, as
    ``mining`` says. ``pixel_memory_bytes``: pictures beyond it are kept on disk; by default half of the free memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    captions_per_image: int = Field(default=1, ge=1, le=64)
    equal_captions_are_positives: bool = False
    no_duplicates: bool = False
    balance_by: str | None = Field(default=None, min_length=1)
    relevance_key: str | None = Field(default=None, min_length=1)
    allow_leakage: bool = False
    pixel_memory_bytes: int | None = Field(default=None, ge=0)
    augmentation: AugmentationSettings = AugmentationSettings()
    wording: CaptionSettings = CaptionSettings()
    negatives: NegativeSettings = NegativeSettings()
    mine_with: str | None = Field(default=None, min_length=1)
    mining: MiningSettings = MiningSettings()

    @property
    def makes_texts(self) -> bool:
        """Whether batches hold texts that are not captions of the data as they are."""
        return self.wording.on or self.negatives.per_image > 0

    @model_validator(mode="after")
    def _orders_fit(self) -> DataSettings:
        if self.balance_by is not None and self.mine_with is not None:
            raise ValueError("balances classes and gathers hard neighbours; keep one of balance_by and mine_with")
        return self
