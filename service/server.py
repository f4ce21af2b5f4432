"""Running the service: load, prove, listen, drain.

Start: take the port (in use? said before minutes of loading), open and verify the collection, load the encoder,
compare fingerprints, encode one batch of each kind, listen. Stop, on SIGTERM: say not ready, wait until load
balancers have seen it, close the listener, finish what is in flight, answer 503 to what is left, exit 0. A second
signal exits at once. SIGHUP serves the generation that ``CURRENT`` names. A process that loses its device drains at
once and exits with 1, so that it is started anew.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.edge.door import Door
from service.edge.keys import Gate, check_exposure
from service.edge.listener import bind, bind_error, url_of
from service.edge.receipt import KEEP_ALIVE_SECONDS, bounded_protocol
from service.edge.tracing import open_tracing
from service.encoding.device import leave_cores_to_workers, torch_device
from service.encoding.workers import encoder_lost
from service.engine import EncoderLike, Engine, open_live
from service.live import Live
from service.metrics import Metrics
from service.milvus import open_milvus, snapshot_of
from service.settings import Settings
from service.threads import run_apart
from sightline import __version__
from sightline.collection import Generation, open_collection
from sightline.errors import SettingError

_BACKLOG = 2048
"""Connections that the kernel keeps until they are accepted."""
_ACCEPTED_AT_ONCE = 32
"""asyncio accepts as many in one go as its backlog: 2,048 would come before a probe that has already been sent."""
_LOST_SECONDS = 3.0
"""How long answers may take when the device is lost: they are all errors."""
_LAST_ANSWERS_SECONDS = 1.0
_FORCE_SECONDS = 1.0


def serve(settings: Settings, announce: Callable[[Engine, str], None]) -> None:
    """Serve until a signal comes; ``announce(engine, url)`` is called when requests will be answered.

    Raises SettingError (no collection, port in use, a broken file of keys, open to others without keys),
    DependencyMissing (tracing), EncoderMismatch, and what opening and loading raise.
    """
    if settings.collection is None and settings.milvus is None:
        raise SettingError("No collection is named; give --collection or set SIGHTLINE_COLLECTION.")
    check_exposure(settings)
    gate = Gate(settings)
    tracing = open_tracing(__version__) if settings.tracing else None
    hung_up = _mind_signals()
    listener = bind(settings.host, settings.port)
    try:
        engine = _open_engine(settings)
        try:
            engine.start()
            url = url_of(settings.host, listener.getsockname()[1])
            app = create_app(engine, settings, gate=gate, tracing=tracing)
            _spare_the_loop()

            def on_listening() -> None:
                announce(engine, url)
                if hung_up.is_set():
                    server.reload()

            server = DrainingServer(engine, settings, app, on_listening)
            server.run(sockets=[listener])
        except OSError as error:
            raise bind_error(settings.host, settings.port, error) from error
        finally:
            engine.close()
            if engine.batcher.running:
                _end_soon(exit_code=1 if engine.batcher.lost else 0)
        if engine.batcher.lost:
            raise encoder_lost()
    finally:
        listener.close()
        if tracing is not None:
            tracing.close()


def _mind_signals() -> threading.Event:
    """Signals while everything is loaded: SIGTERM ends the process at once, for nothing is in flight and nothing is
    written (and process 1 of a container would ignore it by default). The event remembers a SIGHUP for later."""
    hung_up = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda sig, frame: os._exit(128 + sig))
        signal.signal(signal.SIGHUP, lambda sig, frame: hung_up.set())
    return hung_up


def _end_soon(exit_code: int) -> None:
    """End the process although a thread is stuck in the encoder: Python itself could wait for it or crash over it."""
    timer = threading.Timer(_FORCE_SECONDS, os._exit, [exit_code])
    timer.daemon = True
    timer.start()


def _open_engine(settings: Settings) -> Engine:
    """Apart from ``serve``, which lasts and would hold the first generation as long."""
    metrics = Metrics(__version__)
    if settings.collection is None:
        remote = open_milvus(settings)
        leave_cores_to_workers()
        return build_engine(settings, remote, _load_encoder(settings, remote), metrics)
    generation = open_collection(settings.collection, verify=settings.verify)
    live = open_live(
        settings.collection, generation.manifest.encoder.fingerprint, settings, metrics
    )  # locked? said at once
    leave_cores_to_workers()
    return build_engine(settings, generation, _load_encoder(settings, generation), metrics, live)


def _spare_the_loop() -> None:
    """Keep the garbage collector from stopping the event loop: 0.3 s for a walk over all that torch has loaded.

    What is loaded stays and is not looked at again. Requests leave no cycles (a test counts them), so that full walks
    over those that are in flight may be ten times rarer than Python's default.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)


def build_engine(
    settings: Settings,
    generation: Generation,
    encoder: EncoderLike,
    metrics: Metrics | None = None,
    live: Live | None = None,
) -> Engine:
    """An engine that is not started yet. Raises EncoderMismatch."""
    snapshot = snapshot_of(generation, encoder.identity.fingerprint)
    device = torch_device(settings.device, settings.encoder_workers)
    return Engine(encoder, snapshot, settings, metrics or Metrics(__version__), device, live)


class DrainingServer(uvicorn.Server):
    """uvicorn with our way to stop and our bounds for connections. h11 parses HTTP: unlike httptools it bounds headers.

    Proxy headers are not read: nothing here depends on a client's address.
    """

    def __init__(
        self, engine: Engine, settings: Settings, app: FastAPI | None = None,
        on_listening: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        door = Door(
            engine.batcher.has_room, engine.batcher.overloaded, engine.metrics,
            image_units=engine.batcher.image_units, max_body_bytes=settings.max_body_bytes,
        )  # fmt: skip
        super().__init__(
            uvicorn.Config(
                app or create_app(engine, settings), http=bounded_protocol(settings, engine.metrics, door), ws="none",
                lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False,
                h11_max_incomplete_event_size=settings.max_header_bytes, timeout_keep_alive=KEEP_ALIVE_SECONDS,
                backlog=_ACCEPTED_AT_ONCE,
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_seconds + 2 * _LAST_ANSWERS_SECONDS),
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
        for listener in sockets or ():
            listener.listen(_BACKLOG)
        if threading.current_thread() is threading.main_thread():
            self._loop.add_signal_handler(signal.SIGHUP, self.reload)
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

    def reload(self) -> None:
        """Serve what ``CURRENT`` names; how it went is in the log and the metrics."""
        run_apart(self._engine.served.reload, "reload")

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether to go on. Without its device a process is of no use."""
        if self._engine.batcher.lost:
            self._engine.drain()
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight; at the end of the drain time the rest get their 503."""
        last_call = asyncio.ensure_future(self._last_call())
        await super().shutdown(sockets)
        last_call.cancel()

    async def _last_call(self) -> None:
        """Close the engine, which answers whoever waits for it; then cancel what waits for something else."""
        patience_seconds = self._settings.drain_timeout_seconds
        await asyncio.sleep(min(patience_seconds, _LOST_SECONDS) if self._engine.batcher.lost else patience_seconds)
        run_apart(self._engine.close, "close")
        await asyncio.sleep(_LAST_ANSWERS_SECONDS)
        for task in list(self.server_state.tasks):
            task.cancel()

    def _stop(self) -> None:
        self.should_exit = True


def _load_encoder(settings: Settings, generation: Generation) -> EncoderLike:
    from sightline.encoder import load_encoder

    recorded = generation.manifest.encoder
    return load_encoder(
        settings.encoder or recorded.spec, device=settings.device, precision=settings.precision,
        accept_licence=settings.accept_licence or recorded.licence,
    )  # fmt: skip
