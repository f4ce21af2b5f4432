"""What the manifest says of the served indexes, as metrics: the plan, its recall by kind of query, and the curve."""

from __future__ import annotations

from service.metrics import Metrics
from sightline.collection import CollectionManifest
from sightline.index.record import record_of

_KINDS = {"images": "image", "captions": "caption"}


def describe_indexes(metrics: Metrics, manifest: CollectionManifest) -> None:
    """Replace the figures of the generation before by those of this one. Raises ManifestInvalid."""
    records = {kind: record_of(manifest.index, which) for which, kind in _KINDS.items()}
    for gauge in (
        metrics.index_plan_info,
        metrics.index_recall,
        metrics.index_curve_recall,
        metrics.index_curve_seconds,
    ):
        gauge.clear()
    for kind, record in records.items():
        metrics.index_plan_info.labels(kind, record.plan).set(1)
        if record.kind.exact:
            for queries in ("text", "image"):
                metrics.index_recall.labels(kind, queries).set(1.0)
        for queries, point in record.chosen().items():
            metrics.index_recall.labels(kind, queries).set(point.recall_at_10)
        for point in record.curve:
            setting = str(point.setting)
            metrics.index_curve_recall.labels(kind, point.queries, setting).set(point.recall_at_10)
            metrics.index_curve_seconds.labels(kind, point.queries, setting).set(point.latency_ms / 1e3)
