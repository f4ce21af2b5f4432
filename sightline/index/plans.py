"""The plans by name: what each is made of, what it needs, and which setting trades recall for time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

PlanName = Literal["exact", "ivf-sq8", "hnsw", "codes", "ivf-codes", "ivf-disk", "gpu-exact", "gpu-ivf"]
Setting = Literal["", "nprobe", "efSearch", "num_candidates"]


@dataclass(frozen=True)
class Plan:
    """A kind of index.

    ``setting`` is what is tuned; ``min_rows`` is the least that can be trained on; ``refine`` is how many stored
    vectors are scored exactly for a query, where that is not the setting itself.
    """

    name: PlanName
    text: str
    setting: Setting
    min_rows: int
    refine: int = 0
    needs_gpu: bool = False

    @property
    def exact(self) -> bool:
        return not self.setting


PLANS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("exact", "every vector scored, in half precision", "", 0),
        Plan("ivf-sq8", "inverted lists of 8-bit codes, best ones scored again", "nprobe", 1_000, refine=64),
        Plan("hnsw", "a graph over 8-bit codes, best ones scored again", "efSearch", 1_000, refine=64),
        Plan("codes", "4-bit product codes of every vector, best ones scored again", "num_candidates", 1_000),
        Plan(
            "ivf-codes", "inverted lists of 4-bit product codes, best ones scored again", "nprobe", 10_000, refine=384
        ),
        Plan("ivf-disk", "inverted lists of 8-bit codes, mapped from disk", "nprobe", 1_000, refine=64),
        Plan("gpu-exact", "every vector scored on the GPU, in half precision", "", 0, needs_gpu=True),
        Plan("gpu-ivf", "inverted lists of 8-bit codes on the GPU", "nprobe", 1_000, refine=64, needs_gpu=True),
    )
}

HNSW_LINKS = 32
CODE_LISTS = ("ivf-codes",)
INVERTED = ("ivf-sq8", "ivf-codes", "ivf-disk", "gpu-ivf")
SAMPLE_PER_LIST = 64
CODES_SAMPLE = 65_536


def num_lists(num_rows: int) -> int:
    """About √N lists, a power of two. With 1 M vectors 1,024 and 4,096 lists reach the same recall for the same share
    of rows read (``benchmarks.search``), and a quarter of the lists is a quarter of the training."""
    return 1 << max(2, round(math.log2(max(num_rows, 16) ** 0.5)))


def settings_of(plan: Plan, num_rows: int) -> list[int]:
    """The settings worth trying, cheapest first."""
    if plan.setting == "nprobe":
        lists = num_lists(num_rows)
        shares = (0.01, 0.02, 0.04, 0.06, 0.09, 0.13, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0)
        return sorted({max(1, round(share * lists)) for share in shares})
    if plan.setting == "efSearch":
        return [64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048]
    return [n for n in (50, 100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400) if n < num_rows] or [num_rows]
