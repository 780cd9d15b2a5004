"""The model between the web and the engine: a thread that steps, jobs that come and go, a queue with an end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch

from trivium.cores import native_bf16
from trivium.generate.batcher import Batcher, Request, Token
from trivium.generate.constrain import Grammars
from trivium.generate.guess import Draft, Guesser, LookUp
from trivium.generate.native import decoding
from trivium.generate.paged import BLOCK
from trivium.model.int8 import round_layers
from trivium.model.norms import LayerNorm, RMSNorm
from trivium.model.transformer import Transformer
from trivium.recipe.network import Generation
from trivium.serve.engines import CALL, Call, Limits
from trivium.serve.metrics import Metrics
from trivium.serve.problems import ApiError
from trivium.serve.words import Choice, Delta
from trivium.text.chat import ChatTokenizer


class Usage(NamedTuple):
    prompt: int
    reply: int
    cached: int  # tokens of the prompt that had been read before


@dataclass(eq=False)
class Job:
    """The sequences of one request, and what comes from them."""

    service: Service
    requests: list[Request]
    choices: list[Choice]
    prompts: int  # tokens, each prompt once
    call: Call | None = None  # of the client, told what the sequences cost
    arrived: float = field(default_factory=time.monotonic)
    _deltas: asyncio.Queue[Delta] = field(default_factory=asyncio.Queue)

    async def deltas(self) -> AsyncIterator[Delta]:
        """Everything until all sequences have ended; leaving early cancels them. ApiError for the deadline
        and for a broken model."""
        left, until = len(self.requests), self.arrived + self.service.limits.deadline
        try:
            while left:
                try:
                    delta = await asyncio.wait_for(self._deltas.get(), max(0.0, until - time.monotonic()))
                except TimeoutError:
                    limit = self.service.limits.deadline
                    raise ApiError(504, f"no whole reply within {limit:g} s", code="deadline") from None
                if delta.finish == "error":
                    raise ApiError(500, "the model gave numbers that are none", code="model_error")
                if delta.finish == "cancelled":
                    raise ApiError(503, "the server is stopping", code="stopping", retry_after=5)
                left -= delta.finish is not None
                yield delta
        finally:
            self.cancel()

    def cancel(self) -> None:
        for request in self.requests:
            request.cancelled = request.finish is None
        self.service.wake()

    @property
    def usage(self) -> Usage:
        cached = self.requests[0].cached if self.requests else 0
        return Usage(self.prompts, sum(request.said for request in self.requests), cached)


Precision = Literal["float32", "bfloat16", "int8", "int8-dynamic"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def with_precision(model: Transformer, precision: Precision) -> Transformer:
    """The model itself, its weights changed: all float32, all bfloat16 but the norms, or the layers' matrices int8 (and the rest
    bfloat16 where the processor multiplies it, float32 elsewhere). int8-dynamic: what they are given is rounded, too."""
    kind = torch.float32 if precision == "float32" else torch.bfloat16
    if precision.startswith("int8"):
        round_layers(model, inputs=precision == "int8-dynamic")
        kind = torch.bfloat16 if native_bf16(model.output_weight.device.type) else torch.float32
    for module in model.modules():
        wide = isinstance(module, RMSNorm | LayerNorm)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(torch.float32 if wide else kind)
    return model


class Service:
    """One model, served. `name` is what clients call it. `precision`: as in `with_precision`, and the model's own weights are
    changed to it. `draft`: what guesses ahead. Start it inside a running event loop."""

    def __init__(
        self, model: Transformer, chat: ChatTokenizer, name: str, generation: Generation | None = None,
        limits: Limits | None = None, precision: Precision = "float32", metrics: Metrics | None = None,
        draft: Transformer | Literal["look-up"] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.chat, self.name = with_precision(model, precision), chat, name
        self.generation = generation or Generation(max_new_tokens=model.config.context)
        self.limits, self.precision, self.draft = limits or Limits(), precision, draft
        self.metrics = metrics or Metrics(name)
        self.grammars = Grammars(chat, model.config.vocab_size)
        self.started = int(time.time())
        self.room: int = min(model.config.context, self.limits.tokens // BLOCK * BLOCK)
        self.draining = False
        self.broken: str | None = None
        self.batcher: Batcher | None = None
        self._inbox: deque[tuple[Request, Choice, Job]] = deque()
        self._jobs: dict[Request, tuple[Choice, Job]] = {}
        self._times: dict[Request, float] = {}  # of the last token
        self._wake = threading.Condition()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop_soon(self) -> None:
        """Sequences under way are told that the server stops."""
        self._stopping = True
        self.wake()

    def stop(self) -> None:
        """Ends the engine's thread."""
        self.stop_soon()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        with self._wake:
            self._wake.notify()

    @property
    def ready(self) -> bool:
        return self.batcher is not None and self.broken is None and not self.draining

    @property
    def active(self) -> int:
        """Sequences that wait or run."""
        return len(self._inbox) + len(self._jobs)

    @property
    def waiting(self) -> int:
        running = 0 if self.batcher is None else len(self.batcher.running)
        return max(0, self.active - running)

    def submit(
        self, requests: Sequence[Request], make: Callable[[int, Callable[[Delta], None]], Choice]
    ) -> Job:
        """Puts sequences in the queue; `make` gives the choice of each, from its number and where deltas go.

        ApiError 429 where the queue is full, 503 where the server stops.
        """
        if self.draining or self.broken is not None or self._stopping:
            raise ApiError(503, self.broken or "the server is stopping", code="stopping", retry_after=5)
        free = self.limits.running - (0 if self.batcher is None else len(self.batcher.running))
        if self.waiting + len(requests) > self.limits.queue + free:
            raise ApiError(
                429, f"{self.waiting} sequences wait already; come again later", code="queue_full",
                retry_after=max(1, self.waiting // max(1, self.limits.running)),
            )  # fmt: skip
        loop = self._loop
        assert loop is not None, "start() first"
        prompts = sum({id(r.prompt): len(r.prompt) for r in requests}.values())
        job = Job(self, list(requests), [], prompts, CALL.get())
        if job.call is not None:
            job.call.prompt += prompts

        def send(delta: Delta) -> None:
            loop.call_soon_threadsafe(job._deltas.put_nowait, delta)

        for number, request in enumerate(requests):
            choice = make(number, send)
            request.watch = self._watch(request, choice, job)
            job.choices.append(choice)
        with self._wake:
            self._inbox.extend(zip(job.requests, job.choices, [job] * len(requests), strict=True))
            self._wake.notify()
        self.metrics.prompts.observe(job.prompts)
        return job

    def _watch(self, request: Request, choice: Choice, job: Job) -> Callable[[Token], str | None]:
        def watch(token: Token) -> str | None:
            now = time.monotonic()
            last = self._times.get(request)
            if last is None:
                self.metrics.first.observe(now - job.arrived)
            else:
                self.metrics.between.observe(now - last)
            self._times[request] = now
            if job.call is not None:
                job.call.reply += 1
            return choice.watch(token)

        return watch

    def _run(self) -> None:
        with (
            decoding(self.model, int8=self.precision.startswith("int8")) as reader,
            self._guessing() as guesser,
        ):
            while not self._stopping:
                batcher = self.batcher = Batcher(
                    self.model, reader, tokens=self.limits.tokens, chunk=self.limits.chunk, running=self.limits.running,
                    guesser=guesser,
                )  # fmt: skip
                try:
                    self._steps(batcher)
                except Exception as error:
                    self.broken = None if self._stopping else f"the engine failed: {type(error).__name__}"
                    for request in list(self._jobs):
                        self._end(request, "error")
                    raise
            for request in list(self._jobs):
                self._end(request, "cancelled")

    @contextmanager
    def _guessing(self) -> Iterator[Guesser | None]:
        if isinstance(self.draft, Transformer):
            with decoding(self.draft) as reader:
                yield Draft(self.draft, reader, room=self.limits.tokens)
        else:
            yield LookUp() if self.draft == "look-up" else None

    def _steps(self, batcher: Batcher) -> None:
        while True:
            with self._wake:
                while batcher.idle and not self._inbox and not self._stopping:
                    self._wake.wait()
                new = [self._inbox.popleft() for _ in range(len(self._inbox))]
                for request, choice, job in new:
                    self._jobs[request] = (choice, job)
            if self._stopping:
                return
            for request, _, _ in new:
                batcher.add(request)
            for request in batcher.step():
                self._end(request, request.finish or "stop")
            self.metrics.after_step(batcher)

    def _end(self, request: Request, finish: str) -> None:
        choice, job = self._jobs.pop(request)
        self._times.pop(request, None)
        choice.end(finish)
        self.metrics.ended.labels(self.name, finish if finish != "cancelled" else "abort").inc()
        self.metrics.whole.observe(time.monotonic() - job.arrived)
        self.metrics.replies.observe(request.said)
