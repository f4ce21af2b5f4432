"""The canary: one text and one picture that never change, and whose vectors must not either.

Memory errors of an accelerator, a library that was replaced under a running process, a tower left in the wrong mode:
such faults raise nothing, they give vectors that look like vectors. So the vectors of two fixed inputs are kept at the
start and compared again and again, through the same queue and the same batches that requests take. Encoding them also
gives an idle encoder something to hang on, so that a stuck device is found before the next request finds it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from service.encoding.batcher import Batcher
from service.encoding.lanes import Lane, Modality, Vectors
from service.metrics import Metrics
from sightline.errors import DeadlineExceeded, NotReady, Overloaded, SightlineError
from sightline.images import PixelSpec

MIN_COSINE = 0.999
"""Low enough for half precision in batches of different sizes, high enough for answers to stay what they were."""
_TEXT = "a small brown dog runs along the beach"
_SEED = 20_260_131
_TIMEOUT_SECONDS = 60.0
_BUSY_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Canary:
    """Compares in a thread of its own. ``reason`` is why the service is not ready, or None; any thread may read it."""

    def __init__(
        self,
        batcher: Batcher,
        spec: PixelSpec,
        metrics: Metrics,
        *,
        units: Callable[[Modality], int],
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        picture = np.random.default_rng(_SEED).integers(0, 256, (spec.height_px, spec.width_px, 3), dtype=np.uint8)
        self._payloads: dict[Modality, Any] = {Modality.TEXT: _TEXT, Modality.IMAGE: picture}  # picture: [H, W, 3]
        self._batcher = batcher
        self._metrics = metrics
        self._units = sum(units(modality) for modality in self._payloads)
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._kept: dict[Modality, Vectors] = {}
        self._closing = threading.Event()
        self.reason: NotReady | None = None

    def start(self) -> None:
        """Keep the vectors that are right by definition and begin to compare. Raises what the encoder raises."""
        self._kept = self._encode(float("inf"))
        for modality in self._kept:
            self._metrics.canary_cosine.labels(modality).set(1.0)
        if self._interval_seconds:
            threading.Thread(target=self._live, name="canary", daemon=True).start()

    def close(self) -> None:
        """Compare no more; nothing is waited for."""
        self._closing.set()

    def prove(self) -> None:
        """Compare now. Raises NotReady when the vectors are not what they were, or cannot be had."""
        if not self.compare(admitted=True):
            raise NotReady("The encoder did not answer in time to be checked; try again when it is less busy.")
        if self.reason is not None:
            raise self.reason

    def compare(self, *, admitted: bool = False) -> bool:
        """Encode again and set ``reason``. False when nothing was learnt: the service is busy, mending or stopping.

        Without ``admitted`` a full queue is left alone: the canary never costs a request its place.
        """
        try:
            if admitted:
                vectors = self._encode(_TIMEOUT_SECONDS)
            else:
                with self._batcher.admit(self._units, Lane.INTERACTIVE):
                    vectors = self._encode(_TIMEOUT_SECONDS)
        except (Overloaded, NotReady, DeadlineExceeded, TimeoutError):
            return False  # the batcher knows whether the encoder hangs, and says so to the probes
        except SightlineError:
            logger.exception("The encoder fails on its canary.")
            self._judge({modality: float("nan") for modality in self._kept})
            return True
        self._judge({modality: _cosine(vector, self._kept[modality]) for modality, vector in vectors.items()})
        return True

    def _judge(self, cosines: dict[Modality, float]) -> None:
        before = self.reason
        for modality, cosine in cosines.items():
            self._metrics.canary_cosine.labels(modality).set(cosine)
        wrong = [modality for modality, cosine in cosines.items() if not cosine >= MIN_COSINE]
        if wrong:
            self.reason = NotReady(
                f"The encoder's {wrong[0]} vectors are not what they were at the start; restart the service."
            )
            logger.error("The canary's cosines are %s; at least %s is right.", cosines, MIN_COSINE)
        else:
            self.reason = None
            if before is not None:
                logger.warning("The canary matches again.")

    def _encode(self, timeout_seconds: float) -> dict[Modality, Vectors]:
        deadline = self._clock() + timeout_seconds
        futures = {
            modality: self._batcher.submit(modality, [payload], lane=Lane.INTERACTIVE, deadline=deadline)[0].future
            for modality, payload in self._payloads.items()
        }
        wait_seconds = None if timeout_seconds == float("inf") else timeout_seconds
        return {modality: future.result(wait_seconds) for modality, future in futures.items()}

    def _live(self) -> None:
        pause_seconds = self._interval_seconds
        while not self._closing.wait(pause_seconds):
            learnt = self.compare()
            pause_seconds = self._interval_seconds if learnt else min(_BUSY_SECONDS, self._interval_seconds)


def _cosine(one: Vectors, other: Vectors) -> float:
    """Of two vectors float32 ``[D]``; NaN where a length is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
