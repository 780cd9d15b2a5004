"""Text from a model, by `slots.py`: many prompts at once for evaluation, one as it comes for a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import complete, written
from trivium.model.transformer import Transformer
from trivium.text.chat import ChatTokenizer, Message
from trivium.text.detokenize import Detokenizer


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
    for token in written(model, tokenizer.prompt(messages), sampling, stop):
        if token in stop:
            break
        ids.append(token)
        if piece := text.push(token):
            yield piece
    if piece := text.rest():
        yield piece
