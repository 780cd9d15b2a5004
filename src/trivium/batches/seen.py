"""When a run shows a record: the order of items is a pure function of (seed, step), so it is worked out, without the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivium.batches.chat import Conversations
from trivium.batches.feedback import Feedback
from trivium.batches.forgotten import Beside, forgotten, part
from trivium.batches.offline import chat, feedback, packed, pairs, pairs_with_reference
from trivium.batches.online import critic_rollouts, group_rollouts
from trivium.batches.packed import open_corpus
from trivium.batches.pairs import Pairs
from trivium.batches.prompts import Prompts
from trivium.batches.rollouts import prompts_of
from trivium.batches.rows import BatchSharding, Shuffled
from trivium.batches.shares import mixed
from trivium.batches.teacher import is_own, taught, translated
from trivium.corpus.records import read
from trivium.model.hf import read_config
from trivium.recipe.training import TrainingStage
from trivium.text.chat import ChatTokenizer


@dataclass(frozen=True)
class Reading:
    """A run that has been, as far as its order of items goes."""

    config: TrainingStage
    data: Path
    tokens: Path  # the data's token shards, for documents
    chat: ChatTokenizer
    context: int  # tokens in a row, at most
    seed: int
    others: Mapping[str, Path] = field(default_factory=dict)  # by role, such as the teacher

    def sharding(self, total: int) -> BatchSharding:
        return BatchSharding(self.seed, self.config.batch, self.config.batch, total=total)


@dataclass(frozen=True)
class Seen:
    """What a run shows of some records."""

    items: int
    """Rows or pairs of the training data that hold one of them; what did not fit is in none."""
    first: int | None
    """The first step (from 1) that shows one; None where none does. Batches that the guard left out are counted."""
    steps: int
    """Steps of the run, as planned."""


Records = Set[tuple[int, int]]
"""(source, number) of records of the training split: of documents the number is the place in its source, from 0; of rows the
source is 0 and the number is the line, from 1."""


def _documents(reading: Reading, wanted: Records) -> Seen:
    corpus = open_corpus(
        reading.data / "train",
        reading.chat,
        reading.tokens / "train",
        reading.context,
        rows=1,
        what="the data",
    )
    length = reading.config.length(corpus.count, corpus.tokens_per_item)
    batches, _ = mixed(corpus, reading.data, reading.sharding(length.items), length.steps, lambda event: None)
    rows = set()
    for index, source in enumerate(corpus.sources):
        for document in (number for place, number in wanted if place == source.shard.source):
            rows |= {(index, row) for row in source.rows_of(document)}
    return Seen(len(rows), _first(batches.places, rows, length.steps), length.steps)


def _items(build: Callable[[Reading, Any], Any]) -> Callable[[Reading, Records], Seen]:
    def seen(reading: Reading, wanted: Records) -> Seen:
        return _shuffled(reading, build(reading, read(reading.data / "train")), wanted)

    return seen


def _shuffled(reading: Reading, items: Any, wanted: Records) -> Seen:
    length = reading.config.length(items.count, items.tokens_per_item)
    order = Shuffled(items.count, items.item, reading.sharding(length.items))
    holding = _holding(items, wanted)
    found = _first(lambda step: order.describe(step)["items"], holding, length.steps)
    return Seen(len(holding), found, length.steps)


def _holding(items: Any, wanted: Records) -> set[int]:
    """The items that are made of one of the records, or behind whose reply KTO's baseline puts its prompt."""
    lines = {number for _, number in wanted}
    holding = {place for place, numbers in enumerate(items.numbers) if lines & set(numbers)}
    return holding | {place for place, lender in enumerate(getattr(items, "lent", ())) if lender in holding}


def _rollouts(reading: Reading, wanted: Records) -> Seen:
    """Of a set of rollouts the first step counts: whitened advantages depend on all of its replies."""
    config: Any = reading.config
    prompts = _prompts(reading)
    length = config.length(prompts.count, prompts.tokens_per_item)
    share = config.batch * config.minibatches // getattr(config, "group", 1)
    holding = _asking(prompts, wanted)
    sets = -(-length.steps // config.period)
    found = _first(lambda number: prompts_of(reading.seed, number, share, prompts.count), holding, sets)
    return Seen(len(holding), None if found is None else (found - 1) * config.period + 1, length.steps)


def _prompts(reading: Reading) -> Prompts:
    config: Any = reading.config
    rows = list(read(reading.data / "train"))
    return Prompts.build(rows, reading.chat, reading.context, config.max_new_tokens)


def _asking(prompts: Prompts, wanted: Records) -> set[int]:
    lines = {number for _, number in wanted}
    return {place for place, number in enumerate(prompts.numbers) if number in lines}


def _taught(reading: Reading, wanted: Records) -> Seen:
    config: Any = reading.config
    split = reading.data / "train"
    if config.match == "text":
        folder = reading.others["teacher"]
        theirs = read_config(folder).config.context
        items = translated(split, reading.chat, ChatTokenizer.load(folder), reading.context, theirs)
        return _shuffled(reading, items, wanted)
    rows = Conversations.build(read(split), reading.chat, reading.context)
    if not config.on_policy:
        return _shuffled(reading, rows, wanted)
    prompts = _prompts(reading)
    holding, asking = _holding(rows, wanted), _asking(prompts, wanted)
    length = config.length(rows.count, rows.tokens_per_item)
    order = Shuffled(rows.count, rows.item, reading.sharding(length.items))

    def shown(step: int) -> set[tuple[str, int]]:
        if is_own(reading.seed, step, config.on_policy):
            return {("own", place) for place in prompts_of(reading.seed, step, config.batch, prompts.count)}
        return {("given", place) for place in order.describe(step)["items"]}

    both = {("given", place) for place in holding} | {("own", place) for place in asking}
    return Seen(len(holding), _first(shown, both, length.steps), length.steps)


def _kept(reading: Reading, wanted: Records) -> Seen:
    """Of unlearning the rows that are kept count: what is forgotten had been read before."""
    config: Any = reading.config
    items = part(config, reading.data, reading.chat, reading.tokens, reading.context)
    length = config.length(items.count, items.tokens_per_item)
    order = Beside(items, reading.sharding(length.items))
    holding = items.kept.holding(wanted)
    return Seen(
        len(holding), _first(lambda step: order.describe(step)["kept"], holding, length.steps), length.steps
    )


def _first(shown: Callable[[int], Any], wanted: set[Any], steps: int) -> int | None:
    if not wanted:
        return None
    return next((step + 1 for step in range(steps) if not wanted.isdisjoint(shown(step))), None)


def _learn(reading: Reading) -> Any:
    return getattr(reading.config, "learn", "all")


_conversations = _items(
    lambda reading, rows: Conversations.build(rows, reading.chat, reading.context, learn=_learn(reading))
)
_pairs = _items(lambda reading, rows: Pairs.build(rows, reading.chat, reading.context))
SEEN: Mapping[Any, Callable[[Reading, Records], Seen]] = {
    packed: _documents,
    chat: _conversations,
    pairs: _pairs,
    pairs_with_reference: _pairs,
    feedback: _items(lambda reading, rows: Feedback.build(rows, reading.chat, reading.context, both=True)),
    critic_rollouts: _rollouts,
    group_rollouts: _rollouts,
    taught: _taught,
    forgotten: _kept,
}
"""How a phase makes batches (`trivium.phases`) -> when they show a record."""
