"""Vectors to scores and rows: exact search, plans tuned to a recall, filters that are never ignored.

Every plan stands behind one method, ``search(queries, k, allowed)``, and declares its ``Capabilities``. A filter or a k
that a plan cannot honour takes the exact path over the stored half-precision vectors instead, because many index types
(the GPU wheels among them) ignore a filter in silence. All plans pass the same adversarial tests.

::

    store      where the float16 vectors are: memory, or the shard files of a generation
    scan       exact scores of any rows of a store, block by block
    exact      everything in memory, no loss: the plan of up to a few hundred thousand vectors
    approximate  a FAISS index proposes, the stored vectors decide
    gpu        exact in half precision on a device, and FAISS's IVF there
    training   vectors → a trained FAISS index;  tuning: the setting that reaches a recall
    planner    which plan, how much memory, how fast, and why
    files      an index on disk, verified before FAISS reads it;  opening: a generation made searchable
"""

from sightline.index.exact import VectorIndex
from sightline.index.hits import Capabilities, Hits, Rows, Scores, SearchIndex
from sightline.index.runtime import require_faiss

__all__ = ["Capabilities", "Hits", "Rows", "Scores", "SearchIndex", "VectorIndex", "require_faiss"]
