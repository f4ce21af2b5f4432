"""The table [objective] of a recipe. Its defaults are open_clip's own losses, untouched.

[objective]
chunk_size = 1024                       # the matrix of logits in blocks of this side, never whole
multi_positive = "out"
label_smoothing = 0.1                   # this much of every target goes to all of the batch alike
hard_negatives = { hardness = 5.0, guard_margin = 0.05, guard_equal_texts = true }
queue = { size = 4096, max_age_steps = 32 }
distillation = { alpha = 0.4, ramp_steps = 1000, teacher = "ema" }
regularisers = { diversity = 0.1, modality_gap = 0.1 }
adversary = { strength = 0.1 }
temperature = { mode = "scheduled", initial_scale = 10, final_scale = 100 }
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["softmax", "sigmoid"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HardNegatives(_Strict):
    """How negatives are weighed (see ``training.objectives.negatives``); by default all alike.

    ``guard_margin`` is in units of inner products: a negative that scores higher than the best positive by more than it
    is left out. ``guard_equal_texts`` leaves out negatives whose caption is word for word that of a positive.
    """

    hardness: float = Field(default=0.0, ge=0, le=100)
    guard_margin: float | None = Field(default=None, ge=0, le=2)
    guard_equal_texts: bool = False


class QueueSettings(_Strict):
    """Vectors of earlier batches as further negatives: at most ``size``, none older than ``max_age_steps`` steps."""

    size: int = Field(default=0, ge=0)
    max_age_steps: int = Field(default=32, ge=1)


class Distillation(_Strict):
    """Soft targets of a teacher: (1 - alpha) of the ordinary loss and alpha of the teacher's.

    ``teacher`` is "ema", the running mean of the student's own weights with ``ema_decay`` (Li et al. 2021, ALBEF, arXiv
    2107.07651), or the spec of a frozen encoder. alpha grows from 0 over ``ramp_steps``.
    """

    alpha: float = Field(default=0.0, ge=0, le=1)
    ramp_steps: int = Field(default=0, ge=0)
    teacher: str = Field(default="ema", min_length=1)
    ema_decay: float = Field(default=0.995, ge=0, lt=1)

    def alpha_at(self, step: int | None) -> float:
        """The weight of the teacher after ``step`` steps; None is after the ramp."""
        if step is None or step >= self.ramp_steps:
            return self.alpha
        return self.alpha * step / self.ramp_steps


class Regularisers(_Strict):
    """Factors of terms that are added to the loss (see ``training.objectives.regularisers``)."""

    diversity: float = Field(default=0.0, ge=0)
    modality_gap: float = Field(default=0.0, ge=0)
    covariance_gap: float = Field(default=0.0, ge=0)

    @property
    def any(self) -> bool:
        """Whether one of them is on."""
        return self.diversity > 0 or self.modality_gap > 0 or self.covariance_gap > 0


class AdversarySettings(_Strict):
    """A network that tells images from texts, against which the encoders learn (see
    ``training.objectives.adversary``)."""

    strength: float = Field(default=0.0, ge=0)
    width: int = Field(default=128, ge=1)


class TemperatureSettings(_Strict):
    """The factor on inner products, 1 / temperature (see ``training.objectives.temperature``).

    "learnable" starts at ``initial_scale``, or where the model stands; "fixed" stays there; "scheduled" moves from
    there to ``final_scale`` over the run, evenly in the logarithm. ``min_scale`` and ``max_scale`` bound a learnable
    one; by default those of CLIP (1 and 100) for a softmax model and none for a sigmoid model.
    """

    mode: Literal["learnable", "fixed", "scheduled"] = "learnable"
    initial_scale: float | None = Field(default=None, gt=0)
    final_scale: float | None = Field(default=None, gt=0)
    min_scale: float | None = Field(default=None, gt=0)
    max_scale: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _keys_fit(self) -> TemperatureSettings:
        if (self.mode == "scheduled") != (self.final_scale is not None):
            raise ValueError('needs final_scale with mode = "scheduled", and only with it')
        if self.mode != "learnable" and (self.min_scale is not None or self.max_scale is not None):
            raise ValueError('takes min_scale and max_scale with mode = "learnable" only; leave them out')
        if self.min_scale is not None and self.max_scale is not None and self.min_scale > self.max_scale:
            raise ValueError("needs min_scale not above max_scale")
        return self

    @property
    def learnt(self) -> bool:
        """Whether gradients move it."""
        return self.mode == "learnable"


class ObjectiveSettings(_Strict):
    """What a run minimises.

    ``kind`` "auto" takes the sigmoid loss for a model with a logit bias and the softmax loss for any other.
    ``chunk_size`` is the side of the blocks in which the matrix of logits is walked; by default a small matrix is
    computed whole and a large one in blocks that suit the device, with the same result. ``multi_positive`` says what a
    picture with several captions asks for: "out", that each of them is likely (Khosla et al. 2020, arXiv 2004.11362),
    or "in", that some of them are (Miech et al. 2020, MIL-NCE, arXiv 1912.06430). ``label_smoothing`` takes that share
    of a picture's target from its captions and spreads it evenly over the batch's texts, and likewise for texts (ALIGN
    trains with 0.1, Jia et al. 2021, arXiv 2102.05918; see ``training.objectives.softmax``).
    """

    kind: Literal["auto", "softmax", "sigmoid"] = "auto"
    chunk_size: int | None = Field(default=None, ge=16)
    multi_positive: Literal["out", "in"] = "out"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    hard_negatives: HardNegatives = HardNegatives()
    queue: QueueSettings = QueueSettings()
    distillation: Distillation = Distillation()
    regularisers: Regularisers = Regularisers()
    adversary: AdversarySettings = AdversarySettings()
    temperature: TemperatureSettings = TemperatureSettings()

    @model_validator(mode="after")
    def _parts_fit(self) -> ObjectiveSettings:
        if self.kind == "sigmoid" and self.multi_positive == "in":
            raise ValueError('takes multi_positive = "in" with the softmax loss only; use "out"')
        if self.kind == "sigmoid" and self.label_smoothing > 0:
            raise ValueError("takes label_smoothing with the softmax loss only; leave it out")
        if self.multi_positive == "in" and self.label_smoothing > 0:
            raise ValueError('takes label_smoothing with multi_positive = "out" only; leave one of the two out')
        return self

    def kind_for(self, *, has_bias: bool) -> Kind:
        """The loss for a model, by whether it has a logit bias."""
        if self.kind == "auto":
            return "sigmoid" if has_bias else "softmax"
        return self.kind
