"""What real Helm makes of the chart, takes and refuses."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import jsonschema
import pytest

from tests.k8s.chart import (
    CHART,
    MANIFESTS,
    NAMES,
    default_values,
    needs_helm,
    of_kind,
    pods,
    read_yaml,
    render,
    rendered,
)
from tests.k8s.schema import schema_text, values_schema
from tests.k8s.update import manifest_text

MINIMAL = {"auth": {"existingSecret": "keys"}}


# The generated files


def test_the_schema_is_made_of_the_values_and_of_the_settings() -> None:
    assert (CHART / "values.schema.json").read_text(encoding="utf-8") == schema_text(default_values()), "make manifests"


@pytest.mark.parametrize("name", NAMES)
def test_values_files_keep_to_the_schema(name: str) -> None:
    jsonschema.validate(read_yaml(CHART / "ci" / name), values_schema(default_values()))


@needs_helm
@pytest.mark.parametrize("name", NAMES)
def test_the_manifests_are_what_helm_renders(name: str) -> None:
    assert (MANIFESTS / name).read_text(encoding="utf-8") == manifest_text(name), "make manifests"


def test_every_manifest_has_its_values() -> None:
    assert sorted(path.name for path in MANIFESTS.iterdir()) == NAMES


def test_the_chart_has_the_version_of_the_package() -> None:
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]
    assert str(read_yaml(CHART / "Chart.yaml")["appVersion"]) == project["version"]


# Helm


@needs_helm
@pytest.mark.parametrize("name", NAMES)
def test_helm_has_nothing_to_say(name: str) -> None:
    from helm_python import lint

    report = lint(CHART, read_yaml(CHART / "ci" / name), strict=True)
    assert report["messages"] == []
    assert report["errors"] == []


@needs_helm
@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 2},
        {"server": {"replica": 2}},
        {"server": {"replicas": "two"}},
        {"settings": {"max_batch_image": 8}},
        {"settings": {"port": "http"}},
        {"settings": {"allow_unauthenticated": True}},
        {"image": {"tag": "latest"}},
        {"server": {"image": {"digest": "sha256:1"}}},
        {"collection": {"source": "s3"}},
    ],
    ids=json.dumps,
)
def test_helm_refuses_values_that_mean_nothing(values: dict[str, Any]) -> None:
    from helm_python.errors import HelmError

    with pytest.raises(HelmError, match="specifications of the schema"):
        render(MINIMAL | values)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("auth.existingSecret", {"auth": {}}),
    ("enable one of them", {"autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True}}}),
    ("server.replicas=1", {"settings": {"live_writes": True}}),
    ("must outlive the pod", {
        "settings": {"live_writes": True}, "server": {"replicas": 1}, "collection": {"source": "demo"},
    }),
    ("collection.image.reference", {"collection": {"source": "image"}}),
    ("collection.source=none", {"settings": {"milvus": "milvus://milvus:19530/photos"}}),
    ("collection.source=none", {"collection": {"source": "none"}}),
    ("collection.copy.volume", {"collection": {"source": "copy"}}),
    ("collection.copy.image", {"collection": {"source": "copy", "copy": {"command": ["fetch"]}}}),
    ("encoder.spec", {"indexer": {"enabled": True}}),
    ("indexer.shards=1", {"indexer": {"enabled": True, "mode": "sync", "shards": 2}, "encoder": {"spec": "e"}}),
    ("indexer.sourceVolume", {"indexer": {"enabled": True}, "encoder": {"spec": "/encoder/e"}}),
    ("trainer.dataVolume", {"trainer": {"enabled": True}}),
    ("raise it", {"server": {"terminationGracePeriodSeconds": 20}}),
]  # fmt: skip


@needs_helm
@pytest.mark.parametrize(("fix", "values"), REFUSED, ids=[fix for fix, _ in REFUSED])
def test_helm_refuses_what_cannot_work_and_names_the_fix(fix: str, values: dict[str, Any]) -> None:
    from helm_python.errors import HelmError

    with pytest.raises(HelmError, match=re.escape(fix)):
        render(MINIMAL | values)


@needs_helm
def test_the_notes_say_how_to_ask() -> None:
    texts = render(MINIMAL)
    (notes,) = (text for path, text in texts.items() if path.endswith("NOTES.txt"))
    assert "port-forward service/sightline 8000:80" in notes
    assert "Authorization: Bearer" in notes


@needs_helm
def test_the_grace_period_follows_the_settings() -> None:
    values = MINIMAL | {"settings": {"drain_delay_seconds": 2.5, "drain_timeout_seconds": 90}}
    (pod,) = pods(of_kind(rendered(values), "Deployment"))
    assert pod.spec["terminationGracePeriodSeconds"] == 103  # 2.5 + 90 + 5, a whole second up, and 5 to spare


@needs_helm
def test_another_setting_replaces_the_pods_and_the_same_ones_do_not() -> None:
    def checksum(settings: dict[str, Any]) -> str:
        (deployment,) = of_kind(rendered(MINIMAL | {"settings": settings}), "Deployment")
        annotations: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
        return annotations["checksum/settings"]

    assert checksum({"cache_bytes": 0}) == checksum({"cache_bytes": 0}) != checksum({"cache_bytes": 1})


@needs_helm
def test_another_source_makes_another_job_and_an_upgrade_of_the_service_does_not() -> None:
    values = read_yaml(CHART / "ci" / "index-job.yaml")

    def names(changed: dict[str, Any]) -> set[str]:
        return {one["metadata"]["name"] for one in of_kind(rendered(values | changed), "Job")}

    before = names({})
    assert len(before) == 2
    assert names({"settings": {"cache_bytes": 0}}) == before
    assert names({"indexer": values["indexer"] | {"source": "/source/new.tar"}}).isdisjoint(before)


@needs_helm
def test_the_test_pod_is_a_hook_that_may_reach_the_service() -> None:
    objects = rendered(read_yaml(CHART / "ci" / "service.yaml"))
    (pod,) = of_kind(objects, "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    variables = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
    (service,) = of_kind(objects, "Service")
    assert variables["CHECK_URL"] == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert variables["CHECK_NEEDS_KEY"] == "yes"
    assert variables["CHECK_KEY_FILE"] == "/etc/sightline/test/prometheus.key"
    compile(pod["spec"]["containers"][0]["args"][0], "check.py", "exec")
    (policy,) = (one for one in of_kind(objects, "NetworkPolicy") if one["metadata"]["name"].endswith("-test"))
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted.items() <= pod["metadata"]["labels"].items()


@needs_helm
def test_a_collection_in_milvus_needs_no_volume() -> None:
    values = MINIMAL | {"collection": {"source": "none"}, "settings": {"milvus": "milvus://milvus:19530/photos"}}
    objects = rendered(values)
    (pod,) = pods(of_kind(objects, "Deployment"))
    assert "collection" not in {volume["name"] for volume in pod.spec["volumes"]}
    assert "collection" not in {mount["name"] for mount in pod.containers[0]["volumeMounts"]}
    (config,) = of_kind(objects, "ConfigMap")
    assert "collection" not in tomllib.loads(config["data"]["settings.toml"])
    assert of_kind(objects, "PersistentVolumeClaim") == []


@needs_helm
def test_without_a_digest_the_tag_is_the_version() -> None:
    values = MINIMAL | {"server": {"gpu": {"enabled": True}}}
    (pod,) = pods(of_kind(rendered(values), "Deployment"))
    assert (
        pod.spec["containers"][0]["image"] == f"sightline-service-gpu:{read_yaml(CHART / 'Chart.yaml')['appVersion']}"
    )
    assert pod.spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod.spec["tolerations"]
