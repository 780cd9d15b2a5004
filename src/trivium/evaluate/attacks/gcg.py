"""GCG (Zou et al. 2023, arXiv:2307.15043, algorithm 1): words behind a request, searched for token by token with the model's own
gradients, until a beginning that complies becomes likely.

A step takes the gradient of -log p(target) by the one-hot rows of the suffix's tokens, keeps the `TOP` tokens of each place that
it says would lower the loss most, and draws candidates, each with one token swapped. Their losses are looked at, with what they
have in common read once (`trivium.generate.scoring`), and the best is where the next step starts from. A query is a loss that was
looked at. Candidates are text: one whose words, encoded again, are other tokens is drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trivium.errors import DataError
from trivium.generate.scoring import Asked, score
from trivium.model.heads import capped
from trivium.model.transformer import Transformer
from trivium.seeds import generator
from trivium.text.chat import ChatTokenizer

TOP = 64
"""Tokens of a place that candidates are drawn from."""
DRAWS = 8
"""How often more candidates than asked for are drawn, before those that do not come back as they were are given up."""
FILLERS = (" !", " ?")
"""What suffixes begin as, and another text; where the prompts of the two differ is where the suffix stands."""


class Found(NamedTuple):
    """The best suffix that a search found within so many `queries`, behind its request. `first` and `loss`: -log p of a token of
    the target, in nats, before the search and with what it found."""

    content: str
    first: float
    loss: float
    queries: int


class _Prompt(NamedTuple):
    """The ids of a request with a suffix, whose tokens stand from `start` up to `end`; `head` is the text before them."""

    ids: list[int]
    start: int
    end: int
    head: str


class Search:
    """Suffixes for the requests of one model. `candidates`: of a step; `tokens`: about how long a suffix is."""

    def __init__(self, model: Transformer, chat: ChatTokenizer, *, candidates: int, tokens: int) -> None:
        self.model, self.chat = model, chat
        self.candidates, self.tokens = candidates, tokens
        self.usable = _printable(chat, model.config.vocab_size).to(model.output_weight.device)

    def __call__(self, request: str, target: str, key: str, budgets: Sequence[int]) -> list[Found]:
        """What one search had found after each of so many queries (ascending). The same for the same `key`, whatever was searched
        for before. DataError where nothing can be searched."""
        prompt = self._begun(request)
        wanted = self.chat.guard.plain(target)
        if len(prompt.ids) + len(wanted) > self.model.config.context:
            raise DataError(
                f"the prompt has {len(prompt.ids)} tokens and its target {len(wanted)}, "
                f"the context is {self.model.config.context}"
            )
        rng = generator(0, "gcg", key)
        best = prompt
        first = loss = self._losses([prompt.ids], wanted)[0]
        asked = 1
        found = []
        for budget in budgets:
            while asked < budget:
                some = self._candidates(prompt, wanted, min(self.candidates, budget - asked), rng)
                if not some:
                    break
                losses = self._losses([one.ids for one in some], wanted)
                asked += len(some)
                place = int(np.argmin(losses))
                prompt = some[place]
                if losses[place] < loss:
                    best, loss = prompt, losses[place]
            found.append(Found(self._content(best), first, loss, asked))
        return found

    def _begun(self, request: str) -> _Prompt:
        one, other = (self._ids(request + filler * self.tokens) for filler in FILLERS)
        start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
        behind = next(
            (i for i, (a, b) in enumerate(zip(one[::-1], other[::-1], strict=False)) if a != b), len(one)
        )
        end = len(one) - behind
        content, suffix = request + FILLERS[0] * self.tokens, self.chat.decode(one[start:end])
        prompt = _Prompt(one, start, end, content[: len(content) - len(suffix)])
        if len(prompt.head) < len(request) or not suffix or not self._holds(prompt):
            raise DataError("the tokenizer does not give a suffix back as it was: none can be searched")
        return prompt

    def _ids(self, content: str) -> list[int]:
        return self.chat.prompt([{"role": "user", "content": content}])

    def _content(self, prompt: _Prompt) -> str:
        return prompt.head + self.chat.decode(prompt.ids[prompt.start : prompt.end])

    def _holds(self, prompt: _Prompt) -> bool:
        """Whether the text is encoded as these tokens."""
        return self._ids(self._content(prompt)) == prompt.ids

    def _losses(self, prompts: Sequence[Sequence[int]], target: Sequence[int]) -> list[float]:
        found = score(self.model, [Asked([*ids, *target], len(ids)) for ids in prompts])
        return [-one.logp / len(target) for one in found]

    def _candidates(
        self, prompt: _Prompt, target: Sequence[int], count: int, rng: np.random.Generator
    ) -> list[_Prompt]:
        """`count` at most, each another text than the rest."""
        slopes = gradient(self.model, prompt.ids, target, range(prompt.start, prompt.end))
        slopes = slopes.masked_fill(~self.usable, torch.inf)
        best = slopes.topk(min(TOP, int(self.usable.sum())), largest=False).indices.cpu().numpy()
        found: dict[tuple[int, ...], _Prompt] = {tuple(prompt.ids): prompt}
        for place, token in self._draws(best, count * DRAWS, rng):
            ids = prompt.ids.copy()
            ids[prompt.start + place] = token
            swapped = prompt._replace(ids=ids)
            if tuple(ids) not in found and self._holds(swapped):
                found[tuple(ids)] = swapped
                if len(found) > count:
                    break
        return list(found.values())[1:]

    def _draws(
        self, best: NDArray[np.int64], count: int, rng: np.random.Generator
    ) -> Iterator[tuple[int, int]]:
        places, ranks = rng.integers(len(best), size=count), rng.integers(best.shape[1], size=count)
        for place, rank in zip(places.tolist(), ranks.tolist(), strict=True):
            yield place, int(best[place, rank])


def gradient(model: Transformer, ids: Sequence[int], target: Sequence[int], places: Sequence[int]) -> Tensor:
    """d(-log p(target | ids)) / d(one-hot rows of `places`): (len(places), V) float32, a row's entry j being the change of the
    loss, to first order, when token j comes in."""
    device = model.output_weight.device
    tokens = torch.tensor([[*ids, *target]], device=device)
    positions = torch.arange(tokens.shape[1], device=device)[None]
    with torch.no_grad():
        embedded = model.embed(tokens[:, :-1], positions[:, :-1])
    with torch.enable_grad():
        embedded.requires_grad_(True)
        hidden = model.model.norm(model.through(embedded, positions[:, :-1], None))[0, len(ids) - 1 :]
        logits = capped(F.linear(hidden, model.output_weight).float(), model.config.logit_softcap)
        loss = F.cross_entropy(logits, tokens[0, len(ids) :], reduction="sum")
        (slope,) = torch.autograd.grad(loss, embedded)
    table = model.model.embed_tokens.weight.detach().float()
    return (slope[0, list(places)].float() @ table.T) * model.config.embedding_scale


def _printable(chat: ChatTokenizer, size: int) -> Tensor:
    """(V,) bool: the tokens that are printable ASCII; what is not in the tokenizer is none."""
    known = min(size, chat.vocab_size)
    texts = chat.tokenizer.decode_batch([[i] for i in range(known)], skip_special_tokens=True)
    fit = [text.isascii() and text.isprintable() and bool(text) for text in texts]
    return torch.tensor([*fit, *[False] * (size - known)])
