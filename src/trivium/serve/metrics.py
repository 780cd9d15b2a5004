"""Prometheus metrics under the names that dashboards for vLLM read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:  # an engine elsewhere needs no torch here
    from trivium.generate.batcher import Batcher

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)

TAKEN = {
    "prompt_tokens": "prompt_tokens",
    "generation_tokens": "reply_tokens",
    "prefix_cache_queries": "prefix_queries",
    "prefix_cache_hits": "prefix_hits",
    "num_preemptions": "preemptions",
    "spec_decode_num_draft_tokens": "guessed",
    "spec_decode_num_accepted_tokens": "guessed_right",
}
"""Sums here, and the engine's counters that they are taken from."""


class Metrics:
    """All metrics of one model; every one has the label `model_name`. `shared`: those of another one on the same page."""

    def __init__(self, model: str, shared: Metrics | None = None) -> None:
        self.model = model
        self.registry: CollectorRegistry = CollectorRegistry() if shared is None else shared.registry
        self._families: dict[str, Any] = {} if shared is None else shared._families
        self.running = self._gauge("num_requests_running", "Sequences in the batch.")
        self.waiting = self._gauge("num_requests_waiting", "Sequences that wait for room.")
        self.usage = self._gauge(
            "kv_cache_usage_perc", "Share of the memory for keys and values in use, 0 to 1."
        )
        names = {
            "prompt_tokens": "Tokens of prompts.",
            "generation_tokens": "Tokens of replies.",
            "prefix_cache_queries": "Tokens of prompts that were looked up.",
            "prefix_cache_hits": "Tokens of prompts that had been read before.",
            "num_preemptions": "Sequences that gave their memory away and were read again.",
            "spec_decode_num_draft_tokens": "Tokens of replies that were guessed and read ahead.",
            "spec_decode_num_accepted_tokens": "Those of them that were said.",
        }
        self.sums = {name: self._counter(name, what) for name, what in names.items()}
        self.ended = self._counter("request_success", "Sequences that ended.", "finished_reason")
        self.refused = self._counter("request_refused", "Requests without a reply, by HTTP status.", "status")
        self.first = self._seconds("time_to_first_token_seconds", "From a request to its first token.")
        self.between = self._seconds("inter_token_latency_seconds", "From a token to the next one.")
        self.whole = self._seconds("e2e_request_latency_seconds", "From a request to its end.")
        self.prompts = self._histogram("request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self.replies = self._histogram("request_generation_tokens", "Tokens of a reply.", TOKENS)
        self._seen: WeakKeyDictionary[Batcher, dict[str, int]] = WeakKeyDictionary()  # what was taken over

    def _gauge(self, name: str, what: str) -> Gauge:
        gauge: Gauge = self._family(Gauge, name, what)
        return gauge.labels(self.model)

    def _family(self, kind: Any, name: str, what: str, *more: str, **settings: Any) -> Any:
        """A metric of all models."""
        if name not in self._families:
            labels = ["model_name", *more]
            self._families[name] = kind(f"vllm:{name}", what, labels, registry=self.registry, **settings)
        return self._families[name]

    def _counter(self, name: str, what: str, *more: str) -> Counter:
        counter: Counter = self._family(Counter, name, what, *more)
        return counter if more else counter.labels(self.model)

    def _seconds(self, name: str, what: str) -> Histogram:
        return self._histogram(name, what, SECONDS)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        histogram: Histogram = self._family(Histogram, name, what, buckets=buckets)
        return histogram.labels(self.model)

    def after_step(self, batcher: Batcher) -> None:
        """Takes over what the engine counted."""
        now = vars(batcher.counters)
        seen = self._seen.get(batcher, {})
        for name, field in TAKEN.items():
            self.sums[name].inc(now[field] - seen.get(field, 0))
        self._seen[batcher] = dict(now)
        self.running.set(len(batcher.running))
        self.waiting.set(len(batcher.waiting))
        self.usage.set(len(batcher.blocks.users) / batcher.blocks.total)

    def page(self) -> bytes:
        return generate_latest(self.registry)
