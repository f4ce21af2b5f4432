"""What ``sightline doctor`` finds: one sentence about one thing, and the fix where something is not right."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """``wrong``: something will not work, and the command ends with ``exit_code``; ``warning``: it will be slow, or
    fail one day. Both name the ``fix``. ``facts`` are the figures behind the sentence, for ``--json``."""

    about: str
    says: str
    level: Level = "ok"
    fix: str = ""
    exit_code: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert (self.level == "ok") == (not self.fix), f"{self.about}: what is not right has a fix, and only that"
        assert (self.level == "wrong") == (self.exit_code != 0), self.about

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def warning(about: str, says: str, fix: str, **facts: Any) -> Finding:
    """It works, and will be slow or fail one day."""
    return Finding(about, says, "warning", fix, 0, facts)


def wrong(about: str, says: str, fix: str, exit_code: int = 78, **facts: Any) -> Finding:
    """It will not work; 78 is the exit code of a wrong set-up."""
    return Finding(about, says, "wrong", fix, exit_code, facts)
