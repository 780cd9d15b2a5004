"""Many replies at once, by the code that serves: in machine code where there is some (`native`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trivium.errors import DataError
from trivium.generate.batcher import Batcher, Request, Token
from trivium.generate.native import decoding
from trivium.generate.paged import BLOCK
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import cut_text, holds
from trivium.model.transformer import Transformer

RUNNING = 16
"""Replies under way at once."""


def finish(model: Transformer, requests: Sequence[Request]) -> None:
    """Writes the replies, which are then in the requests. None says anything else in other company."""
    longest = max((len(one.prompt) + one.limit for one in requests), default=0)
    with decoding(model) as reader:
        room = min(RUNNING, len(requests)) * -(-longest // BLOCK) * BLOCK
        batcher = Batcher(model, reader, tokens=max(room, 2 * BLOCK), running=RUNNING)
        for one in requests:
            batcher.add(one)
        while not batcher.idle:
            batcher.step()


def greedy(
    model: Transformer, prompts: Sequence[Sequence[int]], sampling: SamplingParams, stops: frozenset[int],
    decode: Callable[[Sequence[int]], str],
) -> list[str]:  # fmt: skip
    """The likeliest reply to each prompt, which leaves room for one in the context, cut before the first of `stop_strings`."""
    requests = [_request(model, prompt, sampling, stops, decode) for prompt in prompts]
    finish(model, requests)
    if any(one.finish == "error" for one in requests):
        raise DataError("the model's logits are no numbers")
    return [cut_text(decode(one.tokens[len(one.prompt) :]), sampling.stop_strings) for one in requests]


def _request(
    model: Transformer, prompt: Sequence[int], sampling: SamplingParams, stops: frozenset[int],
    decode: Callable[[Sequence[int]], str],
) -> Request:  # fmt: skip
    said: list[int] = []

    def watch(token: Token) -> str | None:
        said.append(token.id)
        strings = sampling.stop_strings
        return "stop" if strings and holds(decode(said), strings) else None

    limit = min(sampling.max_new_tokens, model.config.context - len(prompt))
    return Request(list(prompt), sampling, limit, stops, watch=watch)
