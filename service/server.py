"""Running the service: load, prove, listen, drain.

Start: take the port (in use? said before minutes of loading), open and verify the collection, load the encoder,
compare fingerprints, encode one batch of each kind, listen. Stop, on SIGTERM: say not ready, wait until load
balancers have seen it, close the listener, finish what is in flight, answer 503 to what is left, exit 0. A second
signal exits at once.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from service.app import create_app
from service.edge.listener import bind, bind_error, url_of
from service.engine import EncoderLike, Engine
from service.metrics import Metrics
from service.settings import Settings
from service.snapshot import index_generation
from sightline import __version__
from sightline.collection import Generation, open_collection
from sightline.errors import SettingError

_KEEP_ALIVE_SECONDS = 65
"""Longer than the 60 s after which common proxies drop an idle connection, so that they never race our close."""
_BACKLOG = 2048


def serve(settings: Settings, announce: Callable[[Engine, str], None]) -> None:
    """Serve until a signal comes; ``announce(engine, url)`` is called when requests will be answered.

    Raises SettingError (no collection, port in use), EncoderMismatch, and what opening and loading raise.
    """
    if settings.collection is None:
        raise SettingError("No collection is named; give --collection or set SIGHTLINE_COLLECTION.")
    listener = bind(settings.host, settings.port)
    try:
        generation = open_collection(settings.collection, verify=settings.verify)
        engine = build_engine(settings, generation, _load_encoder(settings, generation))
        try:
            engine.start()
            url = url_of(settings.host, listener.getsockname()[1])
            DrainingServer(engine, settings, lambda: announce(engine, url)).run(sockets=[listener])
        except OSError as error:
            raise bind_error(settings.host, settings.port, error) from error
        finally:
            engine.close()
    finally:
        listener.close()


def build_engine(settings: Settings, generation: Generation, encoder: EncoderLike) -> Engine:
    """An engine that is not started yet. Raises EncoderMismatch."""
    import torch  # heavy, and not needed to check settings or ports

    def free_memory() -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    snapshot = index_generation(generation, encoder.identity.fingerprint)
    return Engine(
        encoder, snapshot, settings, Metrics(__version__),
        out_of_memory=(MemoryError, torch.OutOfMemoryError), free_memory=free_memory,
    )  # fmt: skip


class DrainingServer(uvicorn.Server):
    """uvicorn with our way to stop. h11 parses HTTP: unlike httptools it bounds the size of headers."""

    def __init__(self, engine: Engine, settings: Settings, on_listening: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(engine, settings), http="h11", ws="none", lifespan="off", log_config=None, access_log=False,
                server_header=False, timeout_keep_alive=_KEEP_ALIVE_SECONDS, backlog=_BACKLOG,
                timeout_graceful_shutdown=max(1, round(settings.drain_timeout_seconds) + 1),
            )
        )  # fmt: skip
        self._engine = engine
        self._settings = settings
        self._on_listening = on_listening
        self._signals = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._on_listening()  # not before: a client that is told the address connects at once

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: leave."""
        self._signals += 1
        self._engine.drain()
        if self._signals > 1:
            self.should_exit = self.force_exit = True
        elif sig == signal.SIGTERM and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._settings.drain_delay_seconds, self._stop)
        else:
            self._stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight; at the end of the drain time the engine closes and the rest get their 503."""
        loop = asyncio.get_running_loop()
        last_call = loop.call_later(
            self._settings.drain_timeout_seconds, lambda: loop.run_in_executor(None, self._engine.close)
        )
        await super().shutdown(sockets)
        last_call.cancel()

    def _stop(self) -> None:
        self.should_exit = True


def _load_encoder(settings: Settings, generation: Generation) -> EncoderLike:
    from sightline.encoder import load_encoder

    recorded = generation.manifest.encoder
    return load_encoder(
        settings.encoder or recorded.spec, device=settings.device, precision=settings.precision,
        accept_licence=settings.accept_licence or recorded.licence,
    )  # fmt: skip
