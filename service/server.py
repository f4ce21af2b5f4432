"""Running the service: load, prove, listen, drain.

Start: take the port (in use? said before minutes of loading), open and verify the collection, load the encoder,
compare fingerprints, encode one batch of each kind, listen. Stop, on SIGTERM: say not ready, wait until load
balancers have seen it, close the listener, finish what is in flight, answer 503 to what is left, exit 0. A second
signal exits at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.edge.keys import Gate, check_exposure
from service.edge.listener import bind, bind_error, url_of
from service.edge.receipt import KEEP_ALIVE_SECONDS, bounded_protocol
from service.edge.tracing import open_tracing
from service.encoding.device import torch_device
from service.engine import EncoderLike, Engine
from service.metrics import Metrics
from service.settings import Settings
from service.snapshot import index_generation
from sightline import __version__
from sightline.collection import Generation, open_collection
from sightline.errors import SettingError

_BACKLOG = 2048


def serve(settings: Settings, announce: Callable[[Engine, str], None]) -> None:
    """Serve until a signal comes; ``announce(engine, url)`` is called when requests will be answered.

    Raises SettingError (no collection, port in use, a broken file of keys, open to others without keys),
    DependencyMissing (tracing), EncoderMismatch, and what opening and loading raise.
    """
    if settings.collection is None:
        raise SettingError("No collection is named; give --collection or set SIGHTLINE_COLLECTION.")
    check_exposure(settings)
    gate = Gate(settings)
    tracing = open_tracing(__version__) if settings.tracing else None
    listener = bind(settings.host, settings.port)
    try:
        generation = open_collection(settings.collection, verify=settings.verify)
        engine = build_engine(settings, generation, _load_encoder(settings, generation))
        try:
            engine.start()
            url = url_of(settings.host, listener.getsockname()[1])
            app = create_app(engine, settings, gate=gate, tracing=tracing)
            DrainingServer(engine, settings, app, lambda: announce(engine, url)).run(sockets=[listener])
        except OSError as error:
            raise bind_error(settings.host, settings.port, error) from error
        finally:
            engine.close()
    finally:
        listener.close()
        if tracing is not None:
            tracing.close()


def build_engine(settings: Settings, generation: Generation, encoder: EncoderLike) -> Engine:
    """An engine that is not started yet. Raises EncoderMismatch."""
    snapshot = index_generation(generation, encoder.identity.fingerprint)
    device = torch_device(settings.device, settings.encoder_workers)
    return Engine(encoder, snapshot, settings, Metrics(__version__), device)


class DrainingServer(uvicorn.Server):
    """uvicorn with our way to stop and our bounds for connections. h11 parses HTTP: unlike httptools it bounds headers.

    Proxy headers are not read: nothing here depends on a client's address.
    """

    def __init__(
        self, engine: Engine, settings: Settings, app: FastAPI | None = None,
        on_listening: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        super().__init__(
            uvicorn.Config(
                app or create_app(engine, settings), http=bounded_protocol(settings, engine.metrics), ws="none",
                lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False,
                h11_max_incomplete_event_size=settings.max_header_bytes, timeout_keep_alive=KEEP_ALIVE_SECONDS,
                backlog=_BACKLOG, timeout_graceful_shutdown=max(1, round(settings.drain_timeout_seconds) + 1),
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
        """First signal: drain. Second: leave at once, with the exit code that shells give to a signal."""
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + sig)  # threads may hang in the encoder: nothing that waits for them would be at once
        self._engine.drain()
        if sig == signal.SIGTERM and self._loop is not None:
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
