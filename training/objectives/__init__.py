"""Losses over vectors, and nothing else: no towers, no data, no devices."""

from training.objectives.adversary import Adversary, reverse_gradient
from training.objectives.blocks import log_sum_exps, pair_sum
from training.objectives.compose import ContrastiveLoss, make_loss
from training.objectives.pairs import Loss, Pairs, text_ids
from training.objectives.queue import Queue
from training.objectives.regularisers import covariance_gap, diversity_loss, modality_gap
from training.objectives.settings import Kind, ObjectiveSettings, QueueSettings, TemperatureSettings
from training.objectives.sigmoid import initial_bias
from training.objectives.temperature import Temperature

__all__ = [
    "Adversary",
    "ContrastiveLoss",
    "Kind",
    "Loss",
    "ObjectiveSettings",
    "Pairs",
    "Queue",
    "QueueSettings",
    "Temperature",
    "TemperatureSettings",
    "covariance_gap",
    "diversity_loss",
    "initial_bias",
    "log_sum_exps",
    "make_loss",
    "modality_gap",
    "pair_sum",
    "reverse_gradient",
    "text_ids",
]
