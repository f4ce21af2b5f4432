"""What a manifest keeps of an index: the plan, the setting, and the curve it was chosen from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sightline.errors import ManifestInvalid
from sightline.index.plans import PLANS, Plan
from sightline.index.tuning import Tuned


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CurvePoint(_Strict):
    """What one setting gave for one kind of query; ``latency_ms`` is a single query's median where it was built."""

    setting: int
    queries: str
    recall_at_10: float
    latency_ms: float


class IndexRecord(_Strict):
    """One index of a generation. ``setting`` is 0 and ``curve`` empty for exact plans.

    ``tuned_on`` is ``text`` or ``image``; ``reached`` says whether ``recall_target`` was reached on those queries.
    """

    plan: str = "exact"
    reason: str = ""
    setting: int = 0
    tuned_on: str = ""
    recall_target: float = 0.0
    reached: bool = True
    build_seconds: float = 0.0
    curve: tuple[CurvePoint, ...] = ()

    @property
    def kind(self) -> Plan:
        return PLANS[self.plan]

    def chosen(self) -> dict[str, CurvePoint]:
        """The points of the chosen setting, by kind of query."""
        return {point.queries: point for point in self.curve if point.setting == self.setting}


def record_of(index: Mapping[str, Any], which: str) -> IndexRecord:
    """The record of ``images`` or ``captions`` in a manifest's ``index``; exact where it holds none.

    Raises ManifestInvalid.
    """
    try:
        record = IndexRecord.model_validate(index.get(which, {}))
    except ValidationError as error:
        raise ManifestInvalid("The manifest's record of its index is damaged; build the collection again.") from error
    if record.plan not in PLANS:
        raise ManifestInvalid(
            f"The manifest asks for the index plan {record.plan[:20]!r}, which this Sightline does not know; update it."
        )
    return record


def approximate_record(plan: Plan, tuned: Tuned, reason: str, build_seconds: float) -> IndexRecord:
    """The record of a tuned index."""
    return IndexRecord(
        plan=plan.name,
        reason=reason,
        setting=tuned.setting,
        tuned_on=tuned.tuned_on,
        recall_target=tuned.target,
        reached=tuned.reached,
        build_seconds=round(build_seconds, 1),
        curve=tuple(CurvePoint(**point.as_json()) for point in tuned.curve),
    )
