"""``sightline config`` and the flags of ``sightline serve``, through the real root command."""

from __future__ import annotations

import json

import pytest

from sightline.command.root import main


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_config_shows_values_and_origins(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_PORT", "9001")
    code, out, _ = run(["config", "--json", "--set", "max_batch_texts=3"], capsys)
    values = json.loads(out)
    assert code == 0
    assert values["port"] == {"value": 9001, "origin": "environment", "variable": "SIGHTLINE_PORT"}
    assert (values["max_batch_texts"]["value"], values["max_batch_texts"]["origin"]) == (3, "flag")
    code, out, _ = run(["config"], capsys)
    assert "Port to listen on" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], "No collection is named"),
        (["serve", "--port", "99999"], "port"),
        (["serve", "--collection", "/nowhere", "--set", "api_keys_file=/nowhere/keys"], "cannot be read"),
        (["serve", "--collection", "/nowhere", "--set", "cors_origins=*"], "list whole origins"),
        (["serve", "--collection", "/nowhere", "--set", "max_connections=10"], "max_inflight_requests"),
        (["serve", "--set", "nonsense"], "NAME=VALUE"),
        (["config", "--set", "max_batch_text=3"], "did you mean max_batch_texts"),
        (["config", "--settings", "/nowhere/s.toml"], "cannot be read"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_78(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """R19."""
    code, _, err = run(arguments, capsys)
    assert code == 78
    assert said in err
    assert "Traceback" not in err


def test_listening_to_others_without_keys_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["serve", "--host", "0.0.0.0", "--collection", "/nowhere", "--port", "0"], capsys)
    assert code == 78
    assert "api_keys_file" in err
    assert "allow_unauthenticated" in err


def test_listening_to_others_without_keys_is_warned_of_where_it_is_allowed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    allowed = ["--set", "allow_unauthenticated=true"]
    _, _, err = run(["serve", "--host", "0.0.0.0", "--collection", "/nowhere", "--port", "0", *allowed], capsys)
    assert "warning: listening on 0.0.0.0 without keys" in err
    assert "not a collection" in err
