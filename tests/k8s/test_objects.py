"""What Kubernetes, checkov and we ask of the objects in k8s/manifests, which are what Helm makes."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main

from service.routes import probes
from service.settings import Settings, load_settings
from sightline.command.exit_codes import EXIT_CODES
from sightline.command.root import build_app
from tests.k8s.chart import (
    HOW,
    MANIFESTS,
    NAMES,
    VALUES_FILES,
    Manifest,
    default_values,
    manifests_of,
    of_kind,
    pods,
    read_yaml,
)
from tests.k8s.queries import known_series, series_in

needs_validator = pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None, reason=f"kubernetes-validate is {HOW}"
)


def everything() -> list[tuple[str, Manifest]]:
    return [(name, one) for name in NAMES for one in manifests_of(name)]


@needs_validator
@pytest.mark.parametrize("name", NAMES)
def test_kubernetes_takes_every_object(name: str) -> None:
    """Strictly, by the newest Kubernetes."""
    _validate(name, "")


@needs_validator
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_older_kubernetes_takes_every_object(name: str) -> None:
    """1.30, whose preStop.sleep we use; an image as a volume came with 1.33."""
    _validate(name, "1.33" if name == "image-hpa.yaml" else "1.30")


def _validate(name: str, version: str) -> None:
    import kubernetes_validate

    for one in manifests_of(name):
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, version or kubernetes_validate.latest_version(), strict=True)


CUSTOM: dict[str, dict[str, Any]] = {
    "ScaledObject": {
        "required": ["scaleTargetRef", "triggers", "minReplicaCount", "maxReplicaCount"],
        "properties": {
            "triggers": {
                "minItems": 1,
                "items": {
                    "required": ["type", "metricType", "metadata"],
                    "properties": {
                        "type": {"const": "prometheus"},
                        "metricType": {"enum": ["Value", "AverageValue"]},
                        "metadata": {
                            "required": ["serverAddress", "query", "threshold", "ignoreNullValues"],
                            "additionalProperties": {"type": "string"},
                        },
                    },
                },
            }
        },
    },
    "ServiceMonitor": {
        "required": ["selector", "endpoints"],
        "properties": {
            "selector": {"required": ["matchLabels"]},
            "endpoints": {"minItems": 1, "items": {"required": ["port", "path", "interval"]}},
        },
    },
    "PrometheusRule": {
        "required": ["groups"],
        "properties": {
            "groups": {
                "minItems": 1,
                "items": {
                    "required": ["name", "rules"],
                    "properties": {"rules": {"items": {"required": ["alert", "expr", "labels", "annotations"]}}},
                },
            }
        },
    },
    "HTTPRoute": {
        "required": ["parentRefs", "rules"],
        "properties": {
            "parentRefs": {"minItems": 1, "items": {"required": ["name"]}},
            "rules": {"items": {"properties": {"backendRefs": {"items": {"required": ["name", "port"]}}}}},
        },
    },
}
"""What the custom resources need: their own schemas come with their operators, not with Kubernetes."""


def test_custom_resources_have_what_their_operators_need() -> None:
    seen = set()
    for _, one in everything():
        if one["kind"] in CUSTOM:
            jsonschema.validate(one["spec"], CUSTOM[one["kind"]])
            seen.add(one["kind"])
    assert seen == set(CUSTOM)


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_files_are_taken_by_the_service(name: str, tmp_path: Path) -> None:
    for one in of_kind(manifests_of(name), "ConfigMap"):
        if "settings.toml" in one["data"]:
            file = tmp_path / "settings.toml"
            file.write_text(one["data"]["settings.toml"])
            settings = load_settings({}, {}, file)
            assert str(settings.collection).startswith("/collection")
            assert settings.api_keys_file is not None or settings.allow_unauthenticated


def test_every_setting_named_in_values_exists() -> None:
    named = set(default_values()["settings"])
    for path in VALUES_FILES:
        named |= set(read_yaml(path).get("settings", {}))
    assert named <= set(Settings.model_fields)
    assert len(named) > 10


@pytest.mark.parametrize("name", NAMES)
def test_pods_have_time_to_drain(name: str) -> None:
    objects = manifests_of(name)
    for deployment in of_kind(objects, "Deployment"):
        (config,) = (one for one in of_kind(objects, "ConfigMap") if "settings.toml" in one["data"])
        settings = tomllib.loads(config["data"]["settings.toml"])
        spec = deployment["spec"]["template"]["spec"]
        sleep = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = sleep + settings["drain_delay_seconds"] + settings["drain_timeout_seconds"] + 5
        assert spec["terminationGracePeriodSeconds"] >= math.ceil(needed)


@pytest.mark.parametrize("name", NAMES)
def test_selectors_find_their_pods_and_only_those(name: str) -> None:
    objects = manifests_of(name)
    everyone = pods(objects)
    for deployment in of_kind(objects, "Deployment"):
        wanted = deployment["spec"]["selector"]["matchLabels"].items()
        assert [pod.owner["kind"] for pod in everyone if wanted <= pod.labels.items()] == ["Deployment"]
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & dict(wanted).keys(), "they change with an upgrade"
    for service in of_kind(objects, "Service"):
        found = [pod for pod in everyone if service["spec"]["selector"].items() <= pod.labels.items()]
        assert [pod.owner["kind"] for pod in found] == ["Deployment"]
        ports = {port["name"] for port in found[0].spec["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        for monitor in of_kind(objects, "ServiceMonitor"):
            assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            assert monitor["spec"]["jobLabel"] in service["metadata"]["labels"]
            assert {one["port"] for one in monitor["spec"]["endpoints"]} <= {
                p["name"] for p in service["spec"]["ports"]
            }
    for budget in of_kind(objects, "PodDisruptionBudget"):
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert any(wanted <= pod.labels.items() for pod in everyone)
    (deny,) = (one for one in of_kind(objects, "NetworkPolicy") if one["metadata"]["name"].endswith("-default-deny"))
    assert set(deny["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert not {"ingress", "egress"} & deny["spec"].keys()
    for pod in everyone:
        assert deny["spec"]["podSelector"]["matchLabels"].items() <= pod.labels.items(), "nothing is left open"


@pytest.mark.parametrize("name", NAMES)
def test_pods_are_as_restricted_as_can_be(name: str) -> None:
    for pod in pods(manifests_of(name)):
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False, "a Service named sightline would set SIGHTLINE_PORT=tcp://…"
        assert pod.spec["securityContext"]["runAsUser"] == 10001
        assert "hostPath" not in json.dumps(pod.spec)
        mounts = {volume["name"] for volume in pod.spec["volumes"]}
        for one in pod.containers:
            context = one["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert one["resources"]["limits"]["memory"]
            assert {mount["name"] for mount in one["volumeMounts"]} <= mounts
            assert "/tmp" in {mount["mountPath"] for mount in one["volumeMounts"]}


@pytest.mark.parametrize("name", NAMES)
def test_images_are_pinned(name: str) -> None:
    for pod in pods(manifests_of(name)):
        for one in pod.containers:
            assert re.search(r"@sha256:[0-9a-f]{64}$", one["image"]), one["image"]


def test_probes_ask_routes_that_exist() -> None:
    source = Path(probes.__file__).read_text()
    seen = set()
    for _, deployment in everything():
        if deployment["kind"] == "Deployment":
            container = deployment["spec"]["template"]["spec"]["containers"][0]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                path = container[probe]["httpGet"]["path"]
                assert f'@router.get(\n        "{path}"' in source
                assert container[probe]["httpGet"]["port"] in {port["name"] for port in container["ports"]}
                seen.add((probe, path))
    assert seen == {("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")}


def test_every_command_line_exists() -> None:
    """Each option that a container is started with is one of the command's."""
    root = typer.main.get_command(build_app())
    seen = set()
    for name, one in everything():
        for container in (container for pod in pods([one]) for container in pod.containers):
            for words in _command_lines(container):
                command: Any = root
                while words and words[0] in getattr(command, "commands", {}):
                    seen.add(words[0])
                    command = command.commands[words.pop(0)]
                known = {option for given in command.params for option in (*given.opts, *given.secondary_opts)}
                options = {word.partition("=")[0] for word in words if word.startswith("--")}
                assert not options - known, (name, options - known)
                needed = [one for one in command.params if one.required and one.param_type_name == "option"]
                assert all(set(one.opts) & options for one in needed), (name, words)
    assert {"serve", "index", "build", "sync", "publish", "verify", "train", "world"} <= seen


def _command_lines(container: dict[str, Any]) -> list[list[str]]:
    """What follows `sightline`, in a shell's script too."""
    args = [str(word) for word in container.get("args", [])]
    if container["command"] == ["sightline"]:
        return [args]
    found = []
    for line in re.findall(r"sightline ([^;\n]+)", "\n".join(container["command"][:3])):
        words = shlex.split(line)
        at = words.index("$@")
        found.append([*words[:at], *args, *words[at + 1 :]])
    return found


def test_jobs_do_not_try_again_what_cannot_succeed() -> None:
    hopeless = {2, 3, 5, 78}
    assert hopeless <= set(EXIT_CODES.values())
    for _, one in everything():
        for job in [one["spec"]["jobTemplate"]] if one["kind"] == "CronJob" else [one] if one["kind"] == "Job" else []:
            spec = job["spec"]
            (disrupted, failed) = spec["podFailurePolicy"]["rules"]
            assert disrupted["action"] == "Ignore"
            assert set(failed["onExitCodes"]["values"]) == hopeless
            names = {container["name"] for container in spec["template"]["spec"]["containers"]}
            assert failed["onExitCodes"]["containerName"] in names
            assert spec["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy asks for it"
            assert spec["activeDeadlineSeconds"] > 0
            assert spec["backoffLimit"] > 0


def test_shards_cover_the_source_once() -> None:
    index, publish = of_kind(manifests_of("index-job.yaml"), "Job")
    spec = index["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    container = spec["template"]["spec"]["containers"][0]
    assert "--shard=$(SHARD_INDEX)/4" in container["args"]
    assert [one for one in container["env"] if one["name"] == "SHARD_INDEX"]
    out = [word for word in container["args"] if word.startswith("--out=")]
    assert out == [word for word in publish["spec"]["template"]["spec"]["containers"][0]["args"] if "--out=" in word]


def test_the_autoscaler_asks_for_series_that_exist() -> None:
    (scaler,) = of_kind(manifests_of("gpu-keda.yaml"), "ScaledObject")
    (trigger,) = scaler["spec"]["triggers"]
    assert series_in(trigger["metadata"]["query"]) == {"sightline_queue_oldest_seconds"} <= known_series()
    threshold, refused_at = float(trigger["metadata"]["threshold"]), Settings().max_queue_seconds
    assert threshold < refused_at, "it adds pods before requests are refused"


def test_the_autoscaler_and_the_deployment_do_not_fight() -> None:
    scaled = 0
    for name in NAMES:
        objects = manifests_of(name)
        scalers = of_kind(objects, "HorizontalPodAutoscaler") + of_kind(objects, "ScaledObject")
        for deployment in of_kind(objects, "Deployment"):
            assert ("replicas" in deployment["spec"]) == (not scalers)
            scaled += len(scalers)
    assert scaled == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_checkov_finds_nothing(name: str) -> None:
    """Without an exception of any kind. `make test-k8s` installs it in a place of its own."""
    checkov = _checkov()
    done = subprocess.run(
        [checkov, "--framework", "kubernetes", "-f", str(MANIFESTS / name), "--output", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 10
    assert [(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]] == []
    assert report["results"]["skipped_checks"] == []


def _checkov() -> str:
    found = os.environ.get("CHECKOV") or shutil.which("checkov") or shutil.which("checkov", path=sys.prefix + "/bin")
    if found is None:
        pytest.skip(f"checkov is {HOW}")
    return found
