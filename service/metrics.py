"""Every metric of the service, in one registry per app (no globals, so that two apps in one process do not mix).

Names start with ``sightline_`` and carry base units. No label holds a user's value: routes are templates or
``__unmatched__``, methods outside the usual ones are ``_OTHER`` (sglang #31193: 17,700 scanned paths became series).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

PREFIX = "sightline"
UNMATCHED = "__unmatched__"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_POWERS_OF_TWO = tuple(float(2**n) for n in range(12))


def known_method(method: str) -> str:
    """The method, or ``_OTHER`` for one that a stranger made up."""
    return method if method in _METHODS else "_OTHER"


class Metrics:
    """Thread-safe (each metric has its own lock). ``registry`` is handed to whoever wants to add its own."""

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace=PREFIX, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, namespace=PREFIX, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, namespace=PREFIX, registry=registry, buckets=buckets)

        self.requests = counter("http_requests_total", "Requests answered.", "route", "method", "status")
        self.request_seconds = histogram(
            "http_request_duration_seconds", "Time from the first byte to the last.", _SECONDS, "route", "method"
        )
        self.inflight_requests = gauge("inflight_requests", "Requests being worked on.")
        self.buffered_bytes = gauge("buffered_body_bytes", "Request bodies held in memory.")
        self.open_connections = gauge("open_connections", "Connections that are open.")
        self.connections_cut = counter(
            "connections_cut_total", "Connections ended: header_timeout, unfinished_body, displaced.", "reason"
        )
        self.rejected = counter("rejected_total", "Requests refused before or during work.", "reason")
        self.stage_seconds = histogram("stage_duration_seconds", "Time of one stage of a request.", _SECONDS, "stage")
        self.queue_items = gauge("queue_items", "Items waiting for the encoder.", "modality", "lane")
        self.queue_oldest_seconds = gauge(
            "queue_oldest_seconds", "Time the oldest waiting item has waited.", "modality", "lane"
        )
        self.admitted_units = gauge("admitted_units", "Work units admitted and not finished.")
        self.capacity_units = gauge("capacity_units", "Work units that may be admitted at once.")
        self.item_wait_seconds = histogram(
            "item_wait_seconds", "Time an item waited for the encoder.", _SECONDS, "modality", "lane"
        )
        self.batch_items = histogram("batch_items", "Items in a batch.", _POWERS_OF_TWO, "modality")
        self.batch_seconds = histogram("batch_duration_seconds", "Time of one batch.", _SECONDS, "modality")
        self.search_batch_queries = histogram(
            "search_batch_queries", "Queries answered in one pass over an index.", _POWERS_OF_TWO
        )
        self.encoded_items = counter("encoded_items_total", "Items encoded.", "modality")
        self.encode_failures = counter("encode_failures_total", "Items the encoder failed on.", "modality")
        self.dropped_items = counter("dropped_items_total", "Items dropped before a batch.", "reason")
        self.bisections = counter("batch_bisections_total", "Failed batches that were split.", "modality")
        self.oom_retries = counter("oom_retries_total", "Batches halved for lack of memory.", "modality")
        self.worker_restarts = counter("worker_restarts_total", "Threads that died and were started again.", "stage")
        self.inflight_pixels = gauge("inflight_pixels", "Pixels of pictures being decoded.")
        self.url_fetches = counter("url_fetches_total", "Pictures asked for by address.", "outcome")
        self.label_cache = counter("label_cache_lookups_total", "Look-ups of label matrices.", "outcome")
        self.label_sets = gauge("label_sets", "Label sets registered by name.")
        self.vector_cache = counter("vector_cache_lookups_total", "Inputs looked up among known vectors.", "outcome")
        self.vector_cache_bytes = gauge("vector_cache_bytes", "Memory of remembered vectors.")
        self.quarantined_inputs = gauge("quarantined_inputs", "Inputs the encoder failed on, refused for a while.")
        self.index_vectors = gauge("index_vectors", "Vectors that can be found.", "kind")
        self.index_plan_info = gauge("index_plan_info", "How it is searched, always 1.", "kind", "plan")
        self.index_recall = gauge("index_recall", "recall@10 of the index when it was built.", "kind", "queries")
        self.index_curve_recall = gauge(
            "index_curve_recall", "recall@10 at a setting that was tried.", "kind", "queries", "setting"
        )
        self.index_curve_seconds = gauge(
            "index_curve_seconds", "Time of one query at a setting that was tried.", "kind", "queries", "setting"
        )
        self.generation_info = gauge("index_generation_info", "What is served, always 1.", "generation", "encoder")
        self.index_age_seconds = gauge("index_age_seconds", "Time since the served generation was built.")
        self.reloads = counter("reloads_total", "Changes of the served generation that were asked for.", "result")
        self.live_changes = gauge("live_changes", "Items changed since the served generation.")
        self.live_sequence = gauge("live_sequence", "The number of the last live change that is served.")
        self.live_log_bytes = gauge("live_log_bytes", "Size of the log of live changes.")
        self.live_writes = counter("live_writes_total", "Live changes acknowledged.", "kind")
        self.live_broken = gauge("live_broken", "1 when the log of live changes cannot be used, else 0.")
        self.compactions = counter("live_compactions_total", "Generations built of live changes.", "result")
        self.canary_cosine = gauge(
            "canary_cosine", "Cosine of the canary's vector and the one it had at the start.", "modality"
        )
        self.ready = gauge("ready", "1 when the service answers, else 0.")
        gauge("build_info", "What this is, always 1.", "version").labels(version).set(1)

    def observe_stage(self, stage: str, seconds: float) -> None:
        self.stage_seconds.labels(stage).observe(seconds)

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """``method`` is one that ``known_method`` gave."""
        self.requests.labels(route, method, str(status)).inc()
        self.request_seconds.labels(route, method).observe(seconds)

    def render(self) -> bytes:
        """The Prometheus text format, UTF-8."""
        return generate_latest(self.registry)
