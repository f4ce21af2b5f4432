"""The model hub: known to be unreachable within seconds, and then only the local cache is asked.

Left alone, the hub client retries every file for most of a minute and logs each attempt.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import httpx
from huggingface_hub import constants

_TIMEOUT_SECONDS = 5.0


@contextlib.contextmanager
def hub_access() -> Iterator[None]:
    """Within the block, downloads work or fail at once. Changes a process-wide setting: load encoders in one thread."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable()
    try:
        with quiet_logging():
            yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def quiet_logging() -> Iterator[None]:
    """Silence logging and undo the root handlers that libraries install when they log through the root functions."""
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        for handler in root.handlers[:]:
            if handler not in handlers:
                root.removeHandler(handler)


def _reachable() -> bool:
    try:
        httpx.head(constants.ENDPOINT, timeout=_TIMEOUT_SECONDS)
    except httpx.HTTPError:
        return False
    return True
