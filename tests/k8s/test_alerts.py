"""Every alert is sound, has a page, fires on series of its trouble, and stays quiet beside a healthy service."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.chart import ALERTS, HOW, RUNBOOKS
from tests.k8s.queries import NOT_OURS, alert_rules, known_series, series_in

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason=f"promtool (Debian: apt install prometheus) is {HOW}"
)
RULES = {rule["alert"]: rule for rule in alert_rules()}
AT = '{job="sightline",instance="a:8000"'
OTHER = '{job="sightline",instance="b:8000"'
BUCKET = "sightline_http_request_duration_seconds_bucket"
HEALTHY = {
    f"up{AT}}}": "1x90",
    f"sightline_ready{AT}}}": "1x90",
    f'sightline_build_info{AT},version="0"}}': "1x90",
    f"process_start_time_seconds{AT}}}": "1000x90",
    f'sightline_canary_cosine{AT},modality="text"}}': "1x90",
    f'sightline_index_generation_info{AT},generation="gen-000001"}}': "1x90",
    f'sightline_queue_oldest_seconds{AT},lane="interactive"}}': "0x90",
    f'sightline_queue_oldest_seconds{AT},lane="bulk"}}': "30x90",
    f'sightline_http_requests_total{AT},status="200"}}': "0+600x90",
    f'sightline_http_requests_total{AT},status="429"}}': "0+6x90",
    f'sightline_http_requests_total{AT},status="503"}}': "0+1x90",
    f'{BUCKET}{AT},route="/v1/text-to-image",le="0.1"}}': "0+600x90",
    f'{BUCKET}{AT},route="/v1/text-to-image",le="10"}}': "0+600x90",
    f'{BUCKET}{AT},route="/v1/text-to-image",le="+Inf"}}': "0+600x90",
    f'sightline_encoded_items_total{AT},modality="text"}}': "0+600x90",
    f'sightline_encode_failures_total{AT},modality="text"}}': "0+1x90",
    f'sightline_worker_restarts_total{AT},stage="search"}}': "0x90",
    f'sightline_reloads_total{AT},result="swapped"}}': "0+1x90",
    f'sightline_connections_cut_total{AT},reason="header_timeout"}}': "0+1x90",
    f'sightline_live_compactions_total{AT},result="done"}}': "0+1x90",
    f"sightline_live_broken{AT}}}": "0x90",
}


@dataclass(frozen=True)
class Case:
    """Series that differ from a healthy service's from minute 20 on, and when the alert must have fired."""

    series: dict[str, str]
    fires_at: str
    gone: tuple[str, ...] = ()


CASES = {
    "SightlineDown": Case({f"up{AT}}}": "1x19 0x70"}, "30m"),
    "SightlineNotReady": Case({f"sightline_ready{AT}}}": "1x19 0x70"}, "25m"),
    "SightlineAbsent": Case({}, "11m", gone=("sightline_build_info",)),
    "SightlineRestarts": Case({f"process_start_time_seconds{AT}}}": "1000x19 2000x5 3000x5 4000x60"}, "40m"),
    "SightlineErrors": Case({f'sightline_http_requests_total{AT},status="503"}}': "0+1x19 20+60x70"}, "35m"),
    "SightlineRefusing": Case({f'sightline_http_requests_total{AT},status="429"}}': "0+6x19 120+300x70"}, "45m"),
    "SightlineSlow": Case(
        {f'{BUCKET}{AT},route="/v1/text-to-image",le="0.1"}}': "0+600x19 11400x70"},
        "45m",
    ),
    "SightlineConnectionsDisplaced": Case(
        {f'sightline_connections_cut_total{AT},reason="displaced"}}': "_x19 1x70"}, "21m"
    ),
    "SightlineCanaryDiffers": Case({f'sightline_canary_cosine{AT},modality="text"}}': "1x19 0.98x70"}, "21m"),
    "SightlineQueueOld": Case({f'sightline_queue_oldest_seconds{AT},lane="interactive"}}': "0x19 2x70"}, "30m"),
    "SightlineEncodeFailures": Case(
        {f'sightline_encode_failures_total{AT},modality="text"}}': "0+1x19 20+60x70"}, "45m"
    ),
    "SightlineWorkerRestarts": Case({f'sightline_worker_restarts_total{AT},stage="search"}}': "0x19 1x70"}, "22m"),
    "SightlineOutOfMemory": Case({f'sightline_oom_retries_total{AT},modality="image"}}': "_x19 3x70"}, "21m"),
    "SightlineReloadFails": Case({f'sightline_reloads_total{AT},result="refused"}}': "_x19 1x70"}, "21m"),
    "SightlineGenerationsDiffer": Case(
        {f'sightline_index_generation_info{OTHER},generation="gen-000002"}}': "_x19 1x70"}, "55m"
    ),
    "SightlineLiveLogBroken": Case({f"sightline_live_broken{AT}}}": "0x19 1x70"}, "21m"),
    "SightlineCompactionFails": Case(
        {f'sightline_live_compactions_total{AT},result="failed"}}': "_x19 1x70"}, "21m"
    ),
}  # fmt: skip


def test_every_alert_has_a_case_that_fires_it() -> None:
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_every_alert_has_a_page_a_severity_and_series_that_exist(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    page = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    assert all(heading in page for heading in ("**What it means.**", "**Look at.**", "**Do.**")), name
    found = series_in(rule["expr"])
    assert found
    assert found <= known_series() | NOT_OURS


def test_every_page_belongs_to_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("Sightline*.md")} == set(RULES)


@needs_promtool
def test_the_rules_are_sound() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


@needs_promtool
def test_every_alert_fires_alone_and_only_in_trouble(tmp_path: Path) -> None:
    """One test of promtool for each alert: nothing at minute 10 (but for what is absent), it alone in its time."""
    (tmp_path / "alerts.yml").write_text(ALERTS.read_text(encoding="utf-8"))
    tests = [_test(name, case) for name, case in CASES.items()]
    tests.append(_test("nothing", Case({}, "80m"), expected=()))
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": tests}, sort_keys=False))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_a_test_of_an_alert_can_fail(tmp_path: Path) -> None:
    """Had the service been healthy, the test above would have failed."""
    (tmp_path / "alerts.yml").write_text(ALERTS.read_text(encoding="utf-8"))
    tests = [_test("SightlineDown", Case({}, "25m"))]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": tests}, sort_keys=False))
    done = subprocess.run(["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode != 0


def _test(name: str, case: Case, expected: tuple[str, ...] | None = None) -> dict[str, Any]:
    series = {one: values for one, values in HEALTHY.items() if one.partition("{")[0] not in case.gone} | case.series
    firing = (name,) if expected is None else expected
    query = 'count by (alertname) (ALERTS{alertstate="firing"})'
    samples = [{"labels": f'{{alertname="{one}"}}', "value": 1} for one in firing]
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": "9m", "exp_samples": []},
            {"expr": query, "eval_time": case.fires_at, "exp_samples": samples},
        ],
    }
