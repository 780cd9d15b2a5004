"""A model under test: its weights, its tokenizer, and the things that suites ask of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from trivium.batches.rows import Fixed, Row, sequence_row
from trivium.cores import native_bf16
from trivium.errors import DataError
from trivium.evaluate.asked import Answer, Item, silent
from trivium.evaluate.metrics import Estimate
from trivium.evaluate.rows import short_hash
from trivium.generate.engine import generate
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import complete
from trivium.imports import open_checkpoint
from trivium.model.hf import WEIGHTS, load
from trivium.model.transformer import Transformer
from trivium.text.chat import ChatTokenizer
from trivium.trace.corpora import Known
from trivium.verify.replies import Reply

MICRO = 16
"""Rows in a forward pass."""
FIRST_IDS = 16
"""Ids of a prompt that its hash is made from."""


@dataclass
class Subject:
    """A checkpoint as it would be served: bf16 where the machine computes it natively."""

    name: str
    folder: Path
    """Or the GGUF file."""
    model: Transformer
    chat: ChatTokenizer
    known: Known = field(default_factory=Known)
    """What it was trained on, for suites that look for it."""

    @classmethod
    def open(cls, name: str, folder: Path, device: str, known: Known | None = None) -> Subject:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if native_bf16(device) else torch.float32
        if file := next(iter(folder.glob("*.gguf")), None):
            model, chat = open_checkpoint(file)
            return cls(name, file, model.to(device, dtype).eval(), chat, known or Known())
        model = load(folder, dtype=dtype, device=device).eval()
        return cls(name, folder, model, ChatTokenizer.load(folder), known or Known())

    @property
    def device(self) -> str:
        return self.model.output_weight.device.type

    @property
    def context(self) -> int:
        return self.model.config.context

    @property
    def template(self) -> str:
        """The hash of its chat template."""
        return short_hash(self.chat.template)

    def prompts(self, items: Sequence[Item]) -> list[Answer]:
        """Each item's ids, with the beginning of the reply that its record asks for (`prefill`), or why it cannot be asked:
        nothing is cut in silence. Where the record has a `document`, that is gone on with, as in pre-training;
        it may hold the `ids` themselves."""
        result = []
        for item in items:
            document = item.record.get("document")
            try:
                if (ids := item.record.get("ids")) is None:
                    ids = (
                        self.chat.prompt(item.messages, item.record.get("tools"))
                        if document is None
                        else self.chat.document(document)[:-1]
                    )
            except DataError as error:
                result.append(Answer(failed=f"no prompt: {error.what}"))
                continue
            ids = [*ids, *self.chat.guard.plain(item.record.get("prefill") or "")]
            long = len(ids) >= self.context
            said = f"the prompt has {len(ids)} tokens, the context is {self.context}" if long else ""
            result.append(Answer(failed=said, ids=ids))
        return result

    def replies(self, items: Sequence[Item], max_new_tokens: int, temperature: float = 0.0) -> list[Answer]:
        """A reply to each item. Draws of an item hang on its number, not on what it is asked together with."""
        answers = self.prompts(items)
        for run in _runs([i for i, a in enumerate(answers) if not a.failed], items, temperature):
            prompts = [answers[i].ids for i in run]
            sampling = SamplingParams(temperature=temperature, max_new_tokens=max_new_tokens)
            first = items[run[0]].number
            stops = frozenset(self.chat.stops)
            done = complete(self.model, prompts, sampling, self.chat.stops, first=first)
            for i, completion in zip(run, done, strict=True):
                text = self.chat.decode([token for token in completion.ids if token not in stops])
                reply = Reply(text, completion.finished)
                why = silent(reply)
                numbers = {} if why else {"tokens": (float(len(completion.ids)), 1.0)}
                answers[i] = replace(
                    answers[i], reply=reply, failed=why, numbers=numbers, written=tuple(completion.ids)
                )
        return answers

    @torch.no_grad()
    def log_probs(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[float]]]
    ) -> list[tuple[float, float]]:
        """(weighted sum of log p, sum of the weights) of each (ids, weights of its ids), each from its own beginning."""
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i][0]))
        result: list[tuple[float, float]] = [(0.0, 0.0)] * len(sequences)
        for start in range(0, len(order), MICRO):
            places = order[start : start + MICRO]
            length = max(2, *(len(sequences[i][0]) for i in places))
            rows: list[Row] = [sequence_row([sequences[i]], length, self.chat.pad) for i in places]
            batch = Fixed(len(rows), lambda i, rows=rows: [rows[i]], MICRO).batch(0)[0]  # type: ignore[misc]
            moved: Any = {name: tensor.to(self.device) for name, tensor in batch.items()}  # type: ignore[attr-defined]
            logp = self.model(moved, {"logp"}).logp.double() * moved["loss_mask"]
            for i, total, count in zip(
                places, logp.sum(1).tolist(), moved["loss_mask"].sum(1).tolist(), strict=True
            ):
                result[i] = (total, count)
        return result

    def file_bytes(self) -> Estimate:
        """Size of the weights on disk."""
        file = self.folder if self.folder.is_file() else self.folder / WEIGHTS
        size = float(file.stat().st_size)
        return Estimate(size, size, size, 1, 1, 0)

    def tokens_per_second(self, tokens: int = 64, repeats: int = 5) -> Estimate:
        """Decoding speed of a single greedy stream: the median of `repeats` runs of `tokens` tokens, from the slowest to the
        fastest, after one that is not counted. Nothing stops early."""
        prompt = self.chat.prompt([{"role": "user", "content": "What does a list do?"}])
        tokens = min(tokens, self.context - len(prompt))
        speeds = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            generate(self.model, [prompt], SamplingParams(max_new_tokens=tokens), stop=())
            speeds.append(tokens / (time.perf_counter() - started))
        speeds = speeds[1:]
        return Estimate(statistics.median(speeds), min(speeds), max(speeds), repeats, repeats, 0)


def _runs(places: Sequence[int], items: Sequence[Item], temperature: float) -> list[list[int]]:
    """Places that can be asked together: for draws, those whose numbers follow each other."""
    runs: list[list[int]] = []
    for place in places:
        if runs and (temperature == 0 or items[place].number == items[runs[-1][-1]].number + 1):
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs
