"""The dashboard asks for series that exist, with labels that they have, in queries that Prometheus understands."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s.chart import HOW
from tests.k8s.queries import NOT_OURS, dashboard, known_series, labels_of, panel_queries, panels, series_in

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason=f"promtool (Debian: apt install prometheus) is {HOW}"
)
TARGET = {"job", "instance", "namespace"}


def test_every_series_exists() -> None:
    for title, query in panel_queries():
        found = series_in(query)
        assert found, title
        assert found <= known_series() | NOT_OURS, title


def test_every_label_exists() -> None:
    for title, query in panel_queries():
        if series_in(query) & NOT_OURS:
            continue
        known = TARGET.union(*(labels_of(name) for name in series_in(query) if name.startswith("sightline_")))
        grouped = {
            label.strip() for names in re.findall(r"\bby\s*\(([^)]*)\)", query) for label in names.split(",")
        }  # fmt: skip
        asked = set(re.findall(r"[{,](\w+)\s*(?:=~|!~|!=|=)\"", query))
        assert grouped | asked <= known, title


def test_every_panel_is_labelled_and_in_its_place() -> None:
    board = dashboard()
    assert board["uid"] == "sightline"
    assert {one["name"] for one in board["templating"]["list"]} == {"DS_PROMETHEUS", "job", "instance"}
    ids = [one["id"] for one in board["panels"]]
    assert len(ids) == len(set(ids))
    places = set()
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(one["datasource"]["uid"] == "${DS_PROMETHEUS}" for one in [panel, *panel["targets"]])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places.add((place["x"], place["y"]))
    assert len(places) == len(panels())


def test_every_kind_of_series_is_shown() -> None:
    """A metric that nobody sees is found out too late; those left out say something else, or are constant."""
    shown = set().union(*(series_in(query) for _, query in panel_queries()))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known_series() if name.startswith("sightline_")}
    seen = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    left_out = {
        "sightline_build_info", "sightline_label_cache_lookups_total", "sightline_label_sets",
        "sightline_vector_cache_bytes", "sightline_quarantined_inputs", "sightline_index_plan_info",
        "sightline_index_curve_recall", "sightline_index_curve_seconds", "sightline_live_sequence",
        "sightline_live_compactions_total",
    }  # fmt: skip
    assert families - seen == left_out


@needs_promtool
def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": query} for number, (_, query) in enumerate(panel_queries())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
