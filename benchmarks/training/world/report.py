"""From finished runs to verdicts and a Markdown page: every published shape came out or did not, with its figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving.bars import Bar, Spread, spread
from benchmarks.training.world.results import Results
from benchmarks.training.world.shapes import Experiment, Shape

_NAMES = {
    "text_to_image_recall_at_1": "R@1 text→image", "image_to_text_recall_at_1": "R@1 image→text",
    "swaps_right": "swaps ranked rightly", "image_probe": "swaps told by image vectors alone, probe",
    "text_probe": "by text vectors alone, probe", "image_vectors_moved": "largest change of an image vector",
    "num_trained": "parameters trained", "target_recall": "R@1, other style", "source_recall": "R@1, plain style",
    "base_target_recall": "base: R@1, other style", "base_source_recall": "base: R@1, plain style",
    "trained_share": "share of parameters", "best_alpha": "best alpha", "alarm_step": "alarm at step (0: none)",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A shape with its values, one for each seed; it came out when the median is within the bound."""

    experiment: str
    shape: Shape
    bar: Bar
    values: tuple[float, ...]

    @property
    def num_within(self) -> int:
        """The seeds for which it came out."""
        if self.shape.direction == "at least":
            return sum(value >= self.shape.bound for value in self.values)
        return sum(value <= self.shape.bound for value in self.values)


def verdicts_of(experiment: Experiment, results: Results) -> list[Verdict]:
    """Over the seeds of which every variant is finished."""
    whole = [
        found
        for found in results.by_seed(experiment.name).values()
        if all(name in found for name in experiment.variants)
    ]
    verdicts = []
    for shape in experiment.shapes:
        values = tuple(shape.of(found) for found in whole)
        verdicts.append(
            Verdict(experiment.name, shape, Bar(shape.name, spread(values), shape.bound, shape.direction), values)
        )
    return verdicts


def page(experiments: Sequence[Experiment], results: Results, verdicts: Sequence[Verdict], machine: str) -> str:
    """The Markdown page."""
    parts = ["## Published shapes on a small drawn world", machine, verdict_table(verdicts)]
    for experiment in experiments:
        parts.append(f"### {experiment.name}\n\n{experiment.question}\n\n{_figures(experiment, results)}")
    seconds = sum(one.seconds for one in results.read())
    seeds = sorted({one.seed for one in results.read()})
    parts.append(
        f"Medians (ranges) over the seeds {', '.join(map(str, seeds))}; a seed draws another world, another start and "
        f"other batches. All runs together took {seconds / 60:.0f} minutes of one core. Recall is among the held-out "
        "scenes, each of which tells something else and of whose kind training had none, every caption a query."
    )
    return "\n\n".join(parts) + "\n"


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """One line for each published shape."""
    lines = [
        "| | shape | wanted | found, median (range) | seeds | verdict | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for verdict in verdicts:
        shape, measured = verdict.shape, verdict.bar.measured
        said = "not run" if measured is None else ("came out" if verdict.bar.met else "**did not come out**")
        lines.append(
            f"| {verdict.experiment} | {shape.name} | {shape.direction} {shape.bound:g} | {_text(measured)} "
            f"| {verdict.num_within} of {len(verdict.values)} | {said} | {shape.published} |"
        )
    return "\n".join(lines)


def _figures(experiment: Experiment, results: Results) -> str:
    header = [_NAMES.get(column, column) for column in experiment.columns]
    lines = ["| | " + " | ".join(header) + " |", "|---|" + "---|" * len(header)]
    by_seed = results.by_seed(experiment.name)
    for variant in experiment.variants:
        rows = [found[variant] for found in by_seed.values() if variant in found]
        cells = [_text(spread([row[column] for row in rows if column in row])) for column in experiment.columns]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _text(measured: Spread | None) -> str:
    if measured is None:
        return "-"
    low, high = _number(measured.low), _number(measured.high)
    return _number(measured.median) + ("" if low == high else f" ({low} to {high})")


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.1e}"
