"""The experiments: what each varies, and the published shapes that it is held against, with their sources."""

from benchmarks.training.world.experiments.batch_sizes import BATCH_SIZES_EXPERIMENT
from benchmarks.training.world.experiments.collapse import COLLAPSE
from benchmarks.training.world.experiments.noise import NOISE
from benchmarks.training.world.experiments.shift import SHIFT
from benchmarks.training.world.experiments.swaps import SWAPS
from benchmarks.training.world.experiments.temperature import TEMPERATURE
from benchmarks.training.world.shapes import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (SWAPS, SHIFT, TEMPERATURE, COLLAPSE, NOISE, BATCH_SIZES_EXPERIMENT)
