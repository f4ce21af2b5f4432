"""``python -m tests.k8s.update``: write the chart's generated files again: the schema and the plain manifests."""

from __future__ import annotations

from tests.k8s.chart import CHART, MANIFESTS, VALUES_FILES, default_values, read_yaml, rendered_text
from tests.k8s.schema import schema_text

_HEADER = (
    "# Made from the chart k8s/sightline with ci/{name} by `make manifests`; do not edit.\n"
    "# Read docs/kubernetes.md first: names of claims, Secrets and images are examples.\n"
)


def manifest_text(name: str) -> str:
    """What a values file gives, as k8s/manifests keeps it."""
    return _HEADER.format(name=name) + rendered_text(read_yaml(CHART / "ci" / name))


def main() -> None:
    (CHART / "values.schema.json").write_text(schema_text(default_values()), encoding="utf-8")
    MANIFESTS.mkdir(exist_ok=True)
    for path in VALUES_FILES:
        (MANIFESTS / path.name).write_text(manifest_text(path.name), encoding="utf-8")


if __name__ == "__main__":
    main()
