"""Captioned pictures: read and decoded once, checked, and drawn in batches by step number.

reading → checks → (mining) → making → batches; ``pixel_store`` keeps what does not fit into memory on disk. ``mining``
is imported by itself: it needs FAISS. A batch is put together by ``epochs`` and ``orders`` (which pictures),
``captions`` (what is said), ``augmentation`` with ``words`` (what is shown), and ``negatives`` with ``false_captions``,
``meaning`` and ``lexicon`` (what is false).
"""

from training.batch import Batch, Rows, Tokens
from training.data.augmentation import Augmentation, AugmentationSettings
from training.data.batches import Batches, Texts, Tokenize
from training.data.captioned import Captioned, caption_key, content_hashes
from training.data.captions import CaptionSettings, Wording
from training.data.checks import Findings, check
from training.data.epochs import Sampling
from training.data.making import make_batches, tokenize_all
from training.data.negatives import Negatives, NegativeSettings
from training.data.neighbours import MiningSettings, Neighbours, load_neighbours, save_neighbours
from training.data.prefetch import Prefetched
from training.data.reading import MAX_BAD_SHARE, Progress, read_captioned, split_source
from training.data.settings import DataSettings

__all__ = [
    "MAX_BAD_SHARE",
    "Augmentation",
    "AugmentationSettings",
    "Batch",
    "Batches",
    "CaptionSettings",
    "Captioned",
    "DataSettings",
    "Findings",
    "MiningSettings",
    "NegativeSettings",
    "Negatives",
    "Neighbours",
    "Prefetched",
    "Progress",
    "Rows",
    "Sampling",
    "Texts",
    "Tokenize",
    "Tokens",
    "Wording",
    "caption_key",
    "check",
    "content_hashes",
    "load_neighbours",
    "make_batches",
    "read_captioned",
    "save_neighbours",
    "split_source",
    "tokenize_all",
]
