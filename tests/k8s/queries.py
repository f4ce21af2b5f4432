"""The queries of the alerts and the dashboard, and the names of series in them."""

from __future__ import annotations

import json
import re
from typing import Any

from service.metrics import Metrics
from tests.k8s.chart import ALERTS, DASHBOARD, read_yaml

NOT_OURS = {"up", "ALERTS", "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED"}
"""Series of Prometheus itself and of NVIDIA's exporter."""
_GRAFANA = {"$__rate_interval": "5m", "$__range": "1h", "$instance": ".*", "$job": "sightline"}
_WORDS = re.compile(r"\b((?:sightline|process|python|DCGM)_\w+|up|ALERTS)\b")


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in read_yaml(ALERTS)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return board


def panels() -> list[dict[str, Any]]:
    """Every panel that shows something."""
    return [one for one in dashboard()["panels"] if one["type"] != "row"]


def panel_queries() -> list[tuple[str, str]]:
    """Title and query, with Grafana's variables replaced by what they may stand for."""
    found = []
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in _GRAFANA.items():
                query = query.replace(name, value)
            found.append((panel["title"], query))
    return found


def series_in(query: str) -> set[str]:
    """The names of series in a query; label names and values in braces are none."""
    outside = re.sub(r"\{[^}]*\}", "", query)
    outside = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", outside)
    return set(_WORDS.findall(outside))


def known_series() -> set[str]:
    """Every series that a process can give, histograms' parts too, and those of the process on Linux."""
    names = set()
    for family in Metrics("0").registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def labels_of(metric: str) -> set[str]:
    """The labels that a family of ours has."""
    metrics = Metrics("0")
    names: dict[str, set[str]] = {}
    for collector in list(metrics.registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for name in metrics.registry._collector_to_names[collector]:
            names[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return names[metric]
