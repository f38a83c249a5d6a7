"""Prometheus metrics: requests, tokens, latencies, the engine's queue and KV cache."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from qwartet.engine.async_engine import AsyncEngine
from qwartet.engine.engine import Engine
from qwartet.openai_api.exchange import Exchange

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GAP_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 10)
_REQUEST_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a timestamp for each counter, of no use here
        self._registry = registry = CollectorRegistry()
        self.http_requests = Counter(
            "qwartet_http_requests", "HTTP requests by route and status.", ["route", "status"], registry=registry
        )
        self.completions = Counter(
            "qwartet_completions", "Finished completions by finish reason.", ["finish_reason"], registry=registry
        )
        self.aborts = Counter(
            "qwartet_aborts", "Requests that ended before their answer was complete.", ["reason"], registry=registry
        )
        self.prompt_tokens = Counter("qwartet_prompt_tokens", "Prompt tokens.", registry=registry)
        self.cached_tokens = Counter(
            "qwartet_cached_prompt_tokens", "Prompt tokens found in the cache.", registry=registry
        )
        self.completion_tokens = Counter("qwartet_completion_tokens", "Generated tokens.", registry=registry)
        self._ttft = Histogram(
            "qwartet_time_to_first_token_seconds", "Time to first token of streams.", buckets=_TTFT_S, registry=registry
        )
        self._gaps = Histogram(
            "qwartet_inter_token_latency_seconds", "Between outputs of a stream.", buckets=_GAP_S, registry=registry
        )
        self._requests = Histogram(
            "qwartet_request_seconds", "Time from arrival to end.", buckets=_REQUEST_S, registry=registry
        )

    def watch(self, engine: AsyncEngine, inner: Engine) -> None:
        """Adds the state of the engine at the time of each scrape."""
        self._registry.register(_EngineState(engine, inner))

    def count_exchange(self, exchange: Exchange, arrived_s: float, ended_s: float) -> None:
        """Counts a request that was queued, whatever its outcome; times are time.monotonic() seconds."""
        self.prompt_tokens.inc(exchange.num_prompt_tokens)
        self.cached_tokens.inc(exchange.num_cached_tokens)
        self.completion_tokens.inc(exchange.num_completion_tokens)
        for reason in exchange.finish_reasons:
            self.completions.labels(reason).inc()
        if exchange.first_token_s is not None:
            self._ttft.observe(exchange.first_token_s - arrived_s)
        for gap_s in exchange.token_gaps_s:
            self._gaps.observe(gap_s)
        self._requests.observe(ended_s - arrived_s)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineState(Collector):
    def __init__(self, engine: AsyncEngine, inner: Engine) -> None:
        self._engine, self._inner = engine, inner

    def collect(self) -> Iterable[Metric]:
        blocks = self._inner.block_manager
        used = 1 - blocks.num_free_blocks / blocks.num_blocks
        yield GaugeMetricFamily("qwartet_running", "Completions that are running.", self._engine.num_running)
        yield GaugeMetricFamily("qwartet_waiting", "Completions that wait in the queue.", self._engine.num_waiting)
        yield GaugeMetricFamily("qwartet_kv_cache_used_ratio", "Share of KV cache blocks in use.", used)
        yield GaugeMetricFamily("qwartet_engine_healthy", "1 while healthy.", float(self._engine.is_healthy))
