"""The next batch is made while the present one is trained on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from training.batch import Batch, BatchSource


class Prefetched:
    """The batches of ``source``, each made one step ahead in a thread of its own; the same batches at the same steps.

    Worth it where an accelerator computes and pictures are cropped or captions tokenised in each step; on a CPU that
    trains with all its cores it gains little. A context manager: leaving it ends the thread. One caller at a time.
    """

    def __init__(self, source: BatchSource) -> None:
        self.steps_per_epoch = source.steps_per_epoch
        self._source = source
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Batch]] | None = None

    def __enter__(self) -> Prefetched:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def at(self, step: int) -> Batch:
        """The batch of a step; raises what making it raised."""
        if self._next is not None and self._next[0] == step:
            future = self._next[1]
        else:
            future = self._pool.submit(self._source.at, step)
        self._next = (step + 1, self._pool.submit(self._source.at, step + 1))
        return future.result()

    def close(self) -> None:
        """End the thread; a batch that it is making is finished first."""
        self._pool.shutdown(wait=True, cancel_futures=True)
