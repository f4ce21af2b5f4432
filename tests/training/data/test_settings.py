from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pydantic import BaseModel

from training.data import DataSettings

PAGE = Path(__file__).parents[3] / "docs" / "training-data.md"


def keys_of(model: type[BaseModel]) -> set[str]:
    found = set(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= keys_of(field.annotation)
    return found


def test_the_page_shows_every_key_with_its_default() -> None:
    block = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)[0]
    assert DataSettings.model_validate(tomllib.loads(block)["data"]) == DataSettings()
    shown = set(re.findall(r"^(?:# )?(\w+) = ", block, re.M)) | set(re.findall(r"^\[data\.(\w+)\]", block, re.M))
    assert shown == keys_of(DataSettings)


def test_the_examples_behind_the_defaults_are_valid() -> None:
    block = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)[0]
    asked = re.sub(r"^# (\w+ = )", r"\1", block, flags=re.M).replace('balance_by = "label"', "")
    assert DataSettings.model_validate(tomllib.loads(asked)["data"]).mine_with == "my-encoder"
