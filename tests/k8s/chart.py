"""The chart: where it is, its values files, and how real Helm renders it."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "k8s" / "sightline"
MANIFESTS = ROOT / "k8s" / "manifests"
ALERTS = CHART / "files" / "alerts.yml"
DASHBOARD = CHART / "files" / "dashboard.json"
RUNBOOKS = ROOT / "docs" / "runbooks"
VALUES_FILES = tuple(sorted((CHART / "ci").glob("*.yaml")))
NAMES = [path.name for path in VALUES_FILES]
NAMESPACE = "photos"
RELEASE = "sightline"
HOW = "not installed; make test-k8s installs it and runs these tests"

needs_helm = pytest.mark.skipif(importlib.util.find_spec("helm_python") is None, reason=f"helm-python-sdk is {HOW}")

Manifest = dict[str, Any]


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def default_values() -> dict[str, Any]:
    values: dict[str, Any] = read_yaml(CHART / "values.yaml")
    return values


def render(values: dict[str, Any], release: str = RELEASE) -> dict[str, str]:
    """Every template's text by its path, as `helm template` gives it. Raises HelmError."""
    from helm_python import Chart

    with Chart.load(CHART) as chart:
        rendered: dict[str, str] = chart.render(values=values, name=release, namespace=NAMESPACE)
    return rendered


def rendered_text(values: dict[str, Any]) -> str:
    """One stream of YAML, ordered by template; without the test pod and the notes."""
    parts = []
    for path, text in sorted(render(values).items()):
        body = text.strip().removeprefix("---").strip()
        if body and path.endswith(".yaml") and "/tests/" not in path:
            parts.append(f"---\n{body}\n")
    return "".join(parts)


def documents(text: str) -> list[Manifest]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where it was built
    return [one for one in yaml.load_all(text, loader) if one]


@functools.cache
def manifests_of(name: str) -> list[Manifest]:
    """A values file's objects as the plain manifests have them: no Helm is needed to look at them. Change nothing."""
    return documents((MANIFESTS / name).read_text(encoding="utf-8"))


def rendered(values: dict[str, Any]) -> list[Manifest]:
    """Every object, the test pod too."""
    return [one for path, text in render(values).items() if path.endswith(".yaml") for one in documents(text)]


@dataclass(frozen=True)
class Pod:
    """A pod of some object: its template and who makes it."""

    owner: Manifest
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(manifests: list[Manifest]) -> list[Pod]:
    """Every pod that these objects make."""
    found = []
    for one in manifests:
        if one["kind"] == "Pod":
            found.append(Pod(one, one["metadata"]["labels"], one["spec"]))
            continue
        spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one.get("spec", {})
        if one["kind"] in {"Deployment", "Job", "CronJob"}:
            template = spec["template"]
            found.append(Pod(one, template["metadata"]["labels"], template["spec"]))
    return found


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] == kind]
