from __future__ import annotations

import inspect

from sightline import errors
from sightline.command.exit_codes import EXIT_CODES, exit_code_of

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.SightlineError)]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [cls.code for cls in ALL]
    assert len(set(codes)) == len(codes)


def test_every_error_is_drawn_in_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = {line.split("─ ")[-1].split()[0] for line in errors.__doc__.splitlines() if "─ " in line}
    assert drawn | {"SightlineError"} == {cls.__name__ for cls in ALL}


def test_every_error_has_a_documented_exit_code() -> None:
    for cls in ALL:
        if cls is not errors.SightlineError:
            assert any(parent in EXIT_CODES for parent in cls.__mro__), cls
    assert exit_code_of(errors.BundleCorrupt) == 5
    assert exit_code_of(errors.EncoderMismatch) == 78
    assert exit_code_of(errors.SourceError) == 2
