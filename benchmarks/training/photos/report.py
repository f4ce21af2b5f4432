"""From trainings to bars and a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.serving.bars import Bar, Spread, ratios, spread, table
from benchmarks.training.photos.plan import Plan
from benchmarks.training.photos.run import OURS, PEER, Entry
from benchmarks.training.photos.score import R_AT_10

SPEED, EQUAL_TIME = 1.3, 1.05
QUIET_CORES = 0.1
CHANCE = 0.01


def values(runs: Sequence[Entry], side: str, key: str) -> list[float]:
    """One figure of a side, by round."""
    return [float(entry[key]) for entry in sorted(runs, key=lambda entry: int(entry["round"])) if entry["side"] == side]


def bars_of(runs: Sequence[Entry]) -> list[Bar]:
    """Ratios are taken within a round."""

    def ratio(key: str) -> Spread | None:
        return ratios(values(runs, OURS, key), values(runs, PEER, key))

    return [
        Bar("pairs/s of the whole command against open_clip's trainer", ratio("pairs_per_second"), SPEED, "at least"),
        Bar("text→image R@10 against open_clip's trainer", ratio(R_AT_10), 1.0, "at least"),
        Bar("seconds of the whole command against open_clip's trainer", ratio("seconds"), EQUAL_TIME, "at most"),
    ]


def page(runs: Sequence[Entry], bars: Sequence[Bar], plan: Plan, machine: str, commands: Sequence[str]) -> str:
    """The Markdown page."""
    head = (
        "| | pairs/s, whole command | pairs/s, steady state by its own log | pairs | seconds | R@10 text→image "
        "| R@1 text→image | R@10 image→text | peak memory, all processes, MiB | others' cores |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    for side in (OURS, PEER):
        cells = [
            *(_cell(runs, side, key) for key in ("pairs_per_second", "loop_pairs_per_second", "pairs", "seconds")),
            *(
                _share(runs, side, key)
                for key in (R_AT_10, "any_text_to_image_recall_at_1", "image_to_text_recall_at_10")
            ),
            str(spread([value / 2**20 for value in values(runs, side, "peak_group_bytes")])),
            f"{max(_others(runs, side), default=0):.2f}",
        ]
        lines.append(f"| {side} | {' | '.join(cells)} |")
    parts = ["## Training on photos beside open_clip's trainer", machine, table(bars), "\n".join(lines)]
    if max([*_others(runs, OURS), *_others(runs, PEER)], default=0.0) > QUIET_CORES:
        parts.append(
            "**Not a quiet machine**: other work took more than a tenth of a core while something was measured. "
            "Shares of right answers do not depend on it, rates do."
        )
    settings = plan.settings
    parts.append(
        f"Medians (ranges) over {len(values(runs, OURS, 'round'))} seeds; chance is {CHANCE} for R@10. Both sides "
        f"train the same architecture from nothing on the same photos for {plan.seconds:.0f} s of whole command: "
        "starting Python, reading, training, writing weights. R@10 is `sightline evaluate`'s on the exported weights "
        "of both, all captions as queries. open_clip's trainer runs with what was fastest for it here "
        f"({settings.name()}, batches of {settings.batch_size}) and learnt best (learning rate "
        f"{settings.learning_rate:g}, random crops from {settings.crop_scale:g} of the area, weight decay "
        f"{settings.weight_decay:g}, {settings.warmup_steps} warm-up steps)."
    )
    parts.append("\n".join(["```", *commands, "```"]))
    return "\n\n".join(parts) + "\n"


def _others(runs: Sequence[Entry], side: str) -> list[float]:
    return [
        one + stolen
        for one, stolen in zip(values(runs, side, "other_cores"), values(runs, side, "stolen_cores"), strict=True)
    ]


def _cell(runs: Sequence[Entry], side: str, key: str) -> str:
    return str(spread(values(runs, side, key)))


def _share(runs: Sequence[Entry], side: str, key: str) -> str:
    found = spread(values(runs, side, key))
    return "not measured" if found is None else f"{found.median:.3f} ({found.low:.3f} to {found.high:.3f})"
