"""B25: schemathesis over our OpenAPI document against a real process: no 5xx, no answer that breaks its schema.

``SIGHTLINE_FUZZ_SECONDS`` (default 60) is the time it may take; every phase runs, the fuzzing ones until it is spent.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.running import serving

DEFAULT_SECONDS = 60
CONFIGURATION = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 408, 409, 413, 415, 422, 429, 431]
"""
"""What is wrong may also be too large, and then it is refused before it is read."""

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(
        importlib.util.find_spec("schemathesis") is None,
        reason="schemathesis is not installed; make test-fault installs the extra fault",
    ),
]


@pytest.mark.timeout(0)
def test_every_operation_answers_as_it_is_described(collection: Path, tmp_path: Path) -> None:
    """B25. What a schema cannot say (is this base64 a picture?) is refused with a documented 4xx, hence no check that
    every generated body is accepted."""
    seconds = int(os.environ.get("SIGHTLINE_FUZZ_SECONDS", DEFAULT_SECONDS))
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    with serving(collection, "--set", "log_level=error", watchdog_seconds=seconds + 180) as url:
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "--no-color",
             "--config-file", str(configuration), "run", f"{url}/openapi.json",
             "--max-time", str(seconds), "--continue-on-failure", "--no-shrink", "--request-timeout", "30",
             "--exclude-checks", "positive_data_acceptance"],
            capture_output=True, text=True, cwd=tmp_path, check=False, timeout=seconds + 120,
        )  # fmt: skip
    lines = [line[:300] for line in (run.stdout + run.stderr).splitlines()]
    failures = next((number for number, line in enumerate(lines) if " FAILURES " in line), 0)
    assert run.returncode == 0, "\n".join(lines[failures:])
    assert any(" generated, " in line for line in lines), "\n".join(lines)
