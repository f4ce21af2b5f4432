"""docs/kubernetes.md is true: its helm commands and values render."""

from __future__ import annotations

import itertools
import re
import shlex
from typing import Any

import pytest
import yaml

from tests.k8s.chart import ROOT, needs_helm, render

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```bash helm\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("helm install", "helm upgrade"))
]
VALUES = re.findall(r"^```yaml values\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_has_what_is_tested() -> None:
    assert len(COMMANDS) == 4
    assert len(VALUES) == 5


@needs_helm
@pytest.mark.parametrize("command", COMMANDS)
def test_every_helm_command_renders(command: str) -> None:
    words = shlex.split(command)
    assert words[3] == "k8s/sightline"
    values: dict[str, Any] = {}
    for flag, word in itertools.pairwise(words):
        if flag == "--set":
            name, _, text = word.partition("=")
            *folders, last = name.split(".")
            place = values
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = yaml.safe_load(text) if last != "tag" else text
    assert render(values, release=words[2])


@needs_helm
@pytest.mark.parametrize("values", VALUES)
def test_every_example_of_values_renders(values: str) -> None:
    assert render({"auth": {"existingSecret": "sightline-keys"}} | yaml.safe_load(values))
