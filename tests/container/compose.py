"""docker-compose.yml as a person would get it: parsed, with variables filled in as compose does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Z_]+):-(?P<default>[^}]*)\})")


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """``${NAME:-default}`` and ``$$`` as compose reads them; every other use of a dollar is refused."""

    def fill(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "$"
        return variables.get(match["name"]) or match["default"]

    assert "$" not in _VARIABLE.sub("", text), text
    return _VARIABLE.sub(fill, text)


def compose_file(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The whole file, merged and filled in."""
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return {key: _filled(value, variables or {}) for key, value in loaded.items()}


def variables_of(name: str) -> set[str]:
    """The variables that a file names: ``docker-compose.yml`` or ``.env.example``."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".yml"):
        return {match["name"] for match in _VARIABLE.finditer(text) if match["name"]}
    return set(re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE))


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return interpolated(value, variables)
    if isinstance(value, list):
        return [_filled(one, variables) for one in value]
    if isinstance(value, dict):
        return {key: _filled(one, variables) for key, one in value.items()}
    return value
