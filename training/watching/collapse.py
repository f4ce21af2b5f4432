"""When a run has collapsed: one point for everything, or everything on a line.

Two rules for each tower, both over the vectors of a batch (``training.watching.figures``):

* complete collapse: the spread is below ``min_spread``, 0.25: any two vectors have a cosine of 0.94 on average;
* dimensional collapse (Jing et al. 2022): the effective rank is below ``min_effective_rank``.

A fresh tower looks collapsed: its vectors start in a narrow cone (Liang et al. 2022). A rule is therefore armed for a
tower only once the tower has been healthy by it, or at the latest when warm-up is over and ``GRACE_STEPS`` more have
passed. From then on ``patience_steps`` steps in a row below the limit end the run: one narrow batch does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from training.watching.settings import WatchSettings

Tower = Literal["image", "text"]
Kind = Literal["spread", "effective_rank"]

GRACE_STEPS = 20
FEWEST_ROWS = 8


@dataclass(frozen=True, slots=True)
class Collapse:
    """What has collapsed: ``value`` of ``kind`` lies below ``limit`` since step ``since``."""

    tower: Tower
    kind: Kind
    value: float
    limit: float
    since: int

    def sentence(self) -> str:
        """What happened, as the beginning of a sentence."""
        vectors = f"the {self.tower} vectors"
        if self.kind == "spread":
            return (
                f"{vectors} have collapsed to one point (spread {self.value:.2f} of 1, below {self.limit:g} "
                f"since step {self.since:,})"
            )
        return (
            f"{vectors} have collapsed to a few directions (effective rank {self.value:.1f}, below {self.limit:g} "
            f"since step {self.since:,})"
        )


class CollapseDetector:
    """Follows one run. ``warmup_steps`` are those of its schedule; figures may come at any steps, in order."""

    def __init__(self, settings: WatchSettings, *, warmup_steps: int = 0) -> None:
        self._limits: dict[Kind, float] = {
            "spread": settings.min_spread,
            "effective_rank": settings.min_effective_rank,
        }
        self._patience = settings.patience_steps
        self._armed_from = warmup_steps + GRACE_STEPS
        self._armed: set[str] = set()
        self._since: dict[str, int] = {}

    def see(self, step: int, figures: Mapping[str, float], *, num_rows: int) -> Collapse | None:
        """Take the figures of a step (see ``vector_figures``) over ``num_rows`` pairs; gives what has collapsed.

        Fewer than ``FEWEST_ROWS`` pairs say nothing: their rank is low by their number alone.
        """
        if num_rows < FEWEST_ROWS:
            return None
        found: list[Collapse] = []
        towers: tuple[Tower, Tower] = ("image", "text")
        for tower in towers:
            for kind, limit in self._limits.items():
                name = f"{tower}_{kind}"
                value = figures[name]
                if value >= limit:
                    self._armed.add(name)
                    self._since.pop(name, None)
                elif name in self._armed or step > self._armed_from:
                    since = self._since.setdefault(name, step)
                    if step - since >= self._patience:
                        found.append(Collapse(tower, kind, value, limit, since))
        return min(found, key=lambda collapse: collapse.since) if found else None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on."""
        return {"armed": sorted(self._armed), "since": dict(self._since)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self._armed, self._since = set(state["armed"]), dict(state["since"])
