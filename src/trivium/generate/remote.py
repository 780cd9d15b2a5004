"""Replies of any server that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp, hosted models): retries, rate, timeouts, cost."""

from __future__ import annotations

import email.utils
import json
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from trivium import seeds
from trivium.errors import DataError
from trivium.generate.connect import checked, headers
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import Completion

Messages = Sequence[Mapping[str, str]]
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers after which the same request may succeed."""
LARGEST = 64 << 20
"""Bytes of an answer that are read."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served, and what is known of it. `key`: the name of the environment variable with the API key."""

    url: str  # the part before `/chat/completions`
    model: str
    key: str | None = None
    timeout: float = 120.0  # seconds that one request may take
    retries: int = 6
    parallel: int = 8  # requests under way at once
    per_minute: float | None = None  # requests started in a minute
    price_in: float = 0.0  # of a million tokens of prompts, in any currency
    price_out: float = 0.0  # of a million tokens of replies
    budget: float | None = None  # in the same currency: no request is started once it is spent


class Answer(NamedTuple):
    """One reply of a chat: its text, whether it ended by itself, and its tokens as the server counts them."""

    text: str
    finished: bool
    prompt_tokens: int = 0
    reply_tokens: int = 0


@dataclass
class Meter:
    """Tokens and cost so far. Threads share it."""

    price_in: float = 0.0
    price_out: float = 0.0
    budget: float | None = None
    calls: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def cost(self) -> float:
        return (self.prompt_tokens * self.price_in + self.reply_tokens * self.price_out) / 1e6

    def add(self, prompt_tokens: int, reply_tokens: int) -> None:
        with self._lock:
            self.calls += 1
            self.prompt_tokens += prompt_tokens
            self.reply_tokens += reply_tokens

    def check(self) -> None:
        """DataError once the budget is spent; requests already under way may go over it."""
        if self.budget is not None and self.cost >= self.budget:
            raise DataError(
                f"the budget is spent: {self.calls} calls cost {self.cost:.4f} of {self.budget:g}",
                fix="raise the teacher's `budget` and run again: no call that was answered is paid twice",
            )


class Refused(DataError):
    """The server understood the request and will not answer it: it would refuse it again."""

    status = 0


class OtherForm(DataError):
    """The server answered, time and again, and not with what was asked for."""


class _Again(Exception):
    """A request that failed in a way that may pass. `after`: seconds that the server asks to wait."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


class Remote:
    """A client of one endpoint. DataError for what trying again does not mend, and when the retries are used up."""

    def __init__(
        self, endpoint: Endpoint, meter: Meter | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        checked(endpoint.url)
        self.endpoint, self.sleep = endpoint, sleep
        self.meter = meter or Meter(endpoint.price_in, endpoint.price_out, endpoint.budget)
        # connections are kept between requests; redirects, which would carry the key to another host, are not followed
        self._client = httpx.Client(
            timeout=endpoint.timeout, limits=httpx.Limits(max_keepalive_connections=None)
        )
        weakref.finalize(self, self._client.close)
        self._lock = threading.Lock()
        self._next = 0.0
        self._schemas = True

    def chat(
        self, messages: Messages, sampling: SamplingParams, schema: Mapping[str, Any] | None = None
    ) -> Answer:
        """The assistant's reply to one conversation; with `schema`, JSON that a server with constrained decoding holds to it."""
        body = {"messages": [dict(m) for m in messages], **_settings(sampling, sampling.seed)}
        if schema is not None:
            form = {"name": "reply", "schema": dict(schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}

        def read(choice: Mapping[str, Any], usage: Mapping[str, Any]) -> Answer:
            text = choice["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError("the content is no text")
            ended = choice.get("finish_reason") == "stop"
            return Answer(
                text, ended, int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
            )

        answer: Answer = self._request("chat/completions", body, read)
        return answer

    def held_to(self, schema: Mapping[str, Any], messages: Messages, sampling: SamplingParams) -> Answer:
        """`chat` with a schema; without one where the server takes none, which is asked only until it is known."""
        if self._schemas:
            try:
                return self.chat(messages, sampling, schema)
            except Refused:
                answer = self.chat(messages, sampling)  # what it refuses so, too, is not for the schema
                self._schemas = False
                return answer
        return self.chat(messages, sampling)

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, stop: Sequence[int]
    ) -> list[Completion]:
        """As `slots.complete`: replies to prompts of ids, with the log-probability of every id.

        Asks for the ids by `return_tokens_as_token_ids`, which vLLM and SGLang understand. A stop id that the server
        leaves out of the reply is not in the result either; `finished` says that it was there.
        """

        def one(number: int) -> Completion:
            body = {
                "prompt": list(prompts[number]),
                "logprobs": 1,
                "return_tokens_as_token_ids": True,
                "stop_token_ids": list(stop),
                **_settings(sampling, seeds.derive(sampling.seed, "sample", number) % 2**31),
            }
            made: Completion = self._request("completions", body, _completion)
            return made

        return self.map(one, range(len(prompts)))

    def map(self, ask: Callable[[int], Any], numbers: Sequence[int]) -> list[Any]:
        """`ask` of every number, `parallel` at a time; the first error ends all that have not begun."""
        with ThreadPoolExecutor(self.endpoint.parallel) as pool:
            futures = [pool.submit(ask, number) for number in numbers]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def post(self, address: str, body: Mapping[str, Any]) -> Any:
        """The JSON that the server answers at another of its addresses, such as one that loads new weights."""
        return self._tried(address, json.dumps(body).encode(), lambda value: value)

    def _request(self, path: str, body: dict[str, Any], read: Callable[[Any, Any], Any]) -> Any:
        def whole(value: Any) -> Any:
            choice, usage = value["choices"][0], value.get("usage") or {}
            result = read(choice, usage)
            self.meter.add(int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
            return result

        data = json.dumps({"model": self.endpoint.model, **body}).encode()
        return self._tried(f"{self.endpoint.url.rstrip('/')}/{path}", data, whole)

    def _tried(self, address: str, data: bytes, read: Callable[[Any], Any]) -> Any:
        failure, kind = "", DataError
        for attempt in range(self.endpoint.retries + 1):
            self.meter.check()
            self._wait_for_turn()
            try:
                return read(self._post(address, data))
            except _Again as error:
                failure, after, kind = str(error), error.after, DataError
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                failure, after = f"an answer of another form ({type(error).__name__}: {error})", None
                kind = OtherForm
            if attempt < self.endpoint.retries:
                # full jitter over the upper half: clients that failed together do not come back together
                jitter = seeds.unit(attempt, f"{threading.get_ident()} {time.monotonic_ns()}")
                self.sleep(after if after is not None else min(60.0, 2.0**attempt) * (0.5 + jitter / 2))
        raise kind(
            f"no answer after {self.endpoint.retries + 1} tries; the last: {failure}",
            where=f"{self.endpoint.url}, model {self.endpoint.model}",
            fix="check that the server is up; then run again: what was answered is not asked again",
        )

    def _wait_for_turn(self) -> None:
        if self.endpoint.per_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 60.0 / self.endpoint.per_minute
        if start > now:
            self.sleep(start - now)

    def _post(self, address: str, data: bytes) -> Any:
        endpoint = self.endpoint
        deadline = time.monotonic() + endpoint.timeout
        sent = headers(endpoint.key, endpoint.url)
        try:
            with self._client.stream("POST", address, content=data, headers=sent) as response:
                body = _read(response, deadline)
        except httpx.RequestError as error:  # timeouts and answers cut short among them
            raise _Again(f"{type(error).__name__}: {error}") from None
        except httpx.InvalidURL as error:
            raise DataError(f"no address: {error}", where=address) from None
        if response.is_success:
            try:
                return json.loads(body)
            except ValueError as error:
                raise _Again(f"an answer that is no JSON: {error}") from None
        reason = f"status {response.status_code}: {body[:500].decode(errors='replace').strip()}"
        if response.status_code in AGAIN:
            raise _Again(reason, _retry_after(response.headers.get("Retry-After")))
        refused = Refused(
            f"the server refuses: {reason}",
            where=f"{endpoint.url}, model {endpoint.model}",
            fix="check the teacher's `url`, `model` and `key`",
        )
        refused.status = response.status_code
        raise refused


def _read(response: httpx.Response, deadline: float) -> bytes:
    """The whole body. ReadTimeout where a server drips it past the deadline: httpx's own is for each piece."""
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > LARGEST or time.monotonic() > deadline:
            raise httpx.ReadTimeout("the answer is too long or too slow")
    return bytes(body)


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header (a number or a date), at most ten minutes; None without one."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(600.0, max(0.0, seconds))


def _settings(sampling: SamplingParams, seed: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": seed,
    }
    if sampling.top_k:
        made["top_k"] = sampling.top_k
    if sampling.min_p:
        made["min_p"] = sampling.min_p
    if sampling.stop_strings:
        made["stop"] = list(sampling.stop_strings)
    return made


def _completion(choice: Mapping[str, Any], usage: Mapping[str, Any]) -> Completion:
    found = choice["logprobs"]
    ids = [int(token.removeprefix("token_id:")) for token in found["tokens"]]
    logp = [float(value) for value in found["token_logprobs"]]
    if len(ids) != len(logp):
        raise ValueError(f"{len(ids)} tokens with {len(logp)} log-probabilities")
    return Completion(ids, logp, choice.get("finish_reason") == "stop")
