"""When a run has collapsed: one point for everything, or everything on a line.

Two rules for each tower, both over the vectors of a batch (``training.watching.figures``):

* complete collapse: the spread is below ``min_spread``, 0.25: any two vectors have a cosine of 0.94 on average;
* dimensional collapse (Jing et al. 2022, arXiv 2110.09348): the effective rank is below ``min_effective_rank``, 2.

``patience_steps`` steps in a row below a limit end the run; one narrow batch does not.

The beginning is the hard part, since a fresh tower looks collapsed: its vectors lie in a narrow cone (Liang et al.
2022, arXiv 2203.02053). A small ViT on the drawn world, trained well, went from a text spread of 0.69 down to 0.21 at
step 20 and came back to 0.9; its image spread began at 0.25 and fell to 0.18. Collapsed runs of the same model (rates
of 0.03 to 1, no negatives, a logit scale of 10,000) were below 0.05 within 5 to 30 steps, down to 0.002. Therefore

* until a run has told pairs apart (matched pairs lead by ``LEARNT_LEAD`` in cosines and by 1 in logits), a fifth of
  ``min_spread`` is its limit;
* a tower that has never been above a limit has time until warm-up is over and ``GRACE_STEPS`` more have passed, unless
  it is dead: the same vector for everything (``DEAD_SPREAD``), which no fresh tower is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from training.watching.settings import WatchSettings

Tower = Literal["image", "text"]
Kind = Literal["spread", "effective_rank"]

TOWERS: tuple[Tower, Tower] = ("image", "text")
FRESH_SHARE = 0.2
LEARNT_LEAD = 0.02
GRACE_STEPS = 20
DEAD_SPREAD = 1e-3
FEWEST_ROWS = 8


@dataclass(frozen=True, slots=True)
class Collapse:
    """What has collapsed: ``value`` of ``kind`` lies below ``limit``, without a break since step ``since``."""

    tower: Tower
    kind: Kind
    value: float
    limit: float
    since: int

    def sentence(self) -> str:
        """What happened, as the beginning of a sentence."""
        what = "one point (spread" if self.kind == "spread" else "a few directions (effective rank"
        return (
            f"the {self.tower} vectors have collapsed to {what} {self.value:.2f}, below {self.limit:g} "
            f"since step {self.since:,})"
        )


class CollapseDetector:
    """Follows one run. ``warmup_steps`` are those of its schedule; figures may come at any steps, in order."""

    def __init__(self, settings: WatchSettings, *, warmup_steps: int = 0) -> None:
        self._settings = settings
        self._patient_until = warmup_steps + GRACE_STEPS
        self._learnt = False
        self._well: set[str] = set()
        self._since: dict[str, int] = {}

    def see(
        self, step: int, figures: Mapping[str, float], *, num_rows: int, logit_scale: float = 1.0
    ) -> Collapse | None:
        """Take the figures of a step (see ``vector_figures``) over ``num_rows`` pairs; gives what has collapsed.

        ``logit_scale`` is the factor on cosines. Fewer than ``FEWEST_ROWS`` pairs say nothing: their rank is low by
        their number alone.
        """
        if num_rows < FEWEST_ROWS:
            return None
        lead = figures["matched_cosine"] - figures["unmatched_cosine"]
        self._learnt |= lead >= LEARNT_LEAD and lead * logit_scale >= 1
        min_spread = self._settings.min_spread * (1 if self._learnt else FRESH_SHARE)
        limits: dict[Kind, float] = {"spread": min_spread, "effective_rank": self._settings.min_effective_rank}
        found: list[Collapse] = []
        for tower in TOWERS:
            dead = figures[f"{tower}_spread"] < DEAD_SPREAD
            for kind, limit in limits.items():
                name = f"{tower}_{kind}"
                if figures[name] >= limit:
                    self._well.add(name)
                    self._since.pop(name, None)
                elif name in self._well or dead or step > self._patient_until:
                    since = self._since.setdefault(name, step)
                    if step - since >= self._settings.patience_steps:
                        found.append(Collapse(tower, kind, figures[name], limit, since))
        return min(found, key=lambda collapse: collapse.since) if found else None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on."""
        return {"learnt": self._learnt, "well": sorted(self._well), "since": dict(self._since)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self._learnt, self._well, self._since = state["learnt"], set(state["well"]), dict(state["since"])
