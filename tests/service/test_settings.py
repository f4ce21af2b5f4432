"""Where settings come from, which one wins, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings, load_settings
from sightline.errors import SettingError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = write(tmp_path / "s.toml", 'port = 1\nhost = "file"\nmax_batch_texts = 7\n')
    environ = {"SIGHTLINE_PORT": "2", "SIGHTLINE_HOST": "environment", "PATH": "/bin"}
    settings = load_settings({"port": 3, "host": None}, environ, file)
    assert (settings.port, settings.host, settings.max_batch_texts, settings.max_batch_images) == (
        3, "environment", 7, Settings().max_batch_images,
    )  # fmt: skip
    origins = {one.name: one.origin for one in settings.describe()}
    assert [origins[name] for name in ("port", "host", "max_batch_texts", "max_batch_images")] == [
        "flag", "environment", "file", "default",
    ]  # fmt: skip


def test_a_misspelt_variable_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(SettingError, match="SIGHTLINE_PROT is not a setting; did you mean SIGHTLINE_PORT"):
        load_settings({}, {"SIGHTLINE_PROT": "1"})


def test_the_variable_of_the_test_data_is_none_of_ours() -> None:
    assert load_settings({}, {"SIGHTLINE_TEST_DATA": "/data"}) == Settings()


@pytest.mark.parametrize(
    ("flags", "environ", "said"),
    [
        ({"colection": "x"}, {}, "did you mean collection"),
        ({}, {"SIGHTLINE_PORT": "http"}, r"port \(from the environment\)"),
        ({}, {"SIGHTLINE_PORT": "70000"}, "65535"),
        ({"precision": "fp8"}, {}, "'fp32'"),
        ({"default_timeout_seconds": 61}, {}, "max_timeout_seconds"),
        ({"max_body_bytes": 2**40}, {}, "max_buffered_bytes"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(flags: dict[str, object], environ: dict[str, str], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        load_settings(flags, environ)


@pytest.mark.parametrize("text", ["port = ", "[service]\nport = 1\n"])
def test_a_broken_or_nested_file_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingError):
        load_settings({}, {}, write(tmp_path / "s.toml", text))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        load_settings({}, {}, tmp_path / "none.toml")


def test_settings_are_frozen_and_every_one_is_described() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.port = 1
    assert all(one.description and one.variable == f"SIGHTLINE_{one.name.upper()}" for one in settings.describe())


def test_only_this_machine_is_listened_to_by_default() -> None:
    assert load_settings().host == "127.0.0.1"
