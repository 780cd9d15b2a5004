"""Text from a model: many prompts at once for evaluation, one at a time as it comes for a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.errors import DataError
from trivium.generate.sampling import SamplingParams, draw
from trivium.generate.slots import complete
from trivium.model.cache import Cache, cache_dtype
from trivium.model.heads import capped
from trivium.model.transformer import Transformer
from trivium.seeds import generator
from trivium.text.chat import ChatTokenizer, Message
from trivium.text.detokenize import Detokenizer


@torch.no_grad()
def decode(
    model: Transformer, prompts: Sequence[Sequence[int]], sampling: SamplingParams, stop: Sequence[int]
) -> Iterator[list[tuple[int, int]]]:
    """Decodes all prompts together; yields, for each step, (number of the prompt, its new id), the stop id included.

    Prompts are laid against the right edge of a key/value cache; finished sequences leave the batch when half of it is done.
    DataError for a prompt that leaves no room in the model's context.
    """
    longest = max(len(prompt) for prompt in prompts)
    context = model.config.context
    if longest >= context:
        raise DataError(
            f"the prompt has {longest} tokens; the model's context is {context}, and the reply needs room too",
            fix="shorten the prompt, or train with a longer `context`",
        )
    weight = model.output_weight
    device, dtype = weight.device, cache_dtype(weight)
    capacity = longest + min(sampling.max_new_tokens, context - longest)
    cache = Cache(model.config, len(prompts), capacity, dtype=dtype, device=device)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    padding = torch.tensor([longest - len(prompt) for prompt in prompts])
    for row, prompt in enumerate(prompts):
        tokens[row, padding[row] :] = torch.as_tensor(prompt)
    tokens, padding = tokens.to(device), padding.to(device)
    limit = capacity - longest
    streams = [
        generator(sampling.seed, "sample", n).random(limit) for n in range(len(prompts))
    ]  # as in `complete`
    uniforms = torch.from_numpy(np.stack(streams)).to(device)
    stops = torch.tensor(list(stop), device=device)
    rows = torch.arange(len(prompts), device=device)  # which prompt each row of the cache belongs to
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    said, changes = tokens, model.config.changes_at
    for place in range(limit):
        if place and changes is not None:
            said = torch.cat((said, tokens), 1)
            if bool(
                (said.shape[1] - padding == changes + 1).any()
            ):  # all its keys are other ones from here on
                tokens, cache.length = said, 0
        logits = _next_logits(model, tokens, padding, cache, weight)
        new = draw(logits, sampling, uniforms[rows, place])
        yield [(int(r), int(t)) for r, t, d in zip(rows, new, done, strict=True) if not d]
        done |= torch.isin(new, stops)
        if bool(done.all()):
            return
        if int(done.sum()) * 2 >= len(done):
            keep = (~done).nonzero().flatten()
            cache.keep(keep)
            new, rows, padding, done, said = new[keep], rows[keep], padding[keep], done[keep], said[keep]
        tokens = new[:, None]


def _next_logits(model: Transformer, tokens: Tensor, padding: Tensor, cache: Cache, weight: Tensor) -> Tensor:
    """One pass over `tokens` (B, T) behind what the cache holds: logits of the last place, (B, V) float32."""
    seen, length = cache.length, tokens.shape[1]
    places = torch.arange(seen, seen + length, device=tokens.device)
    columns = torch.arange(seen + length, device=tokens.device)
    positions = (places[None] - padding[:, None]).clamp_min(0)
    cache.last = positions[:, -1]
    visible = (columns[None, None] <= places[None, :, None]) & (columns[None, None] >= padding[:, None, None])
    visible |= columns[None, None] == places[None, :, None]  # a padded place sees itself: no empty softmax
    hidden = model.hidden(tokens, positions, visible[:, None], cache)
    cache.advance(length)
    return capped(F.linear(hidden[:, -1], weight).float(), model.config.logit_softcap)


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    stop: Sequence[int],
    *,
    batch: int = 64,
) -> list[list[int]]:
    """A reply to every prompt as ids, without the stop id, in the order of the prompts."""
    ending = frozenset(stop)
    return [
        [token for token in reply.ids if token not in ending]
        for reply in complete(model, prompts, sampling, stop, slots=batch)
    ]


def stream(
    model: Transformer,
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    sampling: SamplingParams,
    ids: list[int] | None = None,
) -> Iterator[str]:
    """The assistant's reply to `messages`, piece by piece, as text. A character of several tokens comes when it is whole.

    `ids`: an empty list that the reply's tokens are put into as they come, for those who count them.
    """
    ids = [] if ids is None else ids
    text, stop = Detokenizer(tokenizer.decode), tokenizer.stops
    for step in decode(model, [tokenizer.prompt(messages)], sampling, stop):
        if step[0][1] in stop:
            break
        ids.append(step[0][1])
        if piece := text.push(ids[-1]):
            yield piece
    if piece := text.rest():
        yield piece
