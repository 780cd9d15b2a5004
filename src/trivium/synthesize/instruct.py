"""New instructions of a model's own, those unlike all others, and its answers to them: after examples (self-instruct, Wang et al.
2023), or after nothing but the beginning of a user's turn (Magpie, Xu et al. 2024)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from trivium import seeds
from trivium.corpus.records import Record, key_of
from trivium.synthesize.loops import Sample, Studio, conversation, verdict
from trivium.synthesize.rouge import rouge_l, words
from trivium.synthesize.teachers import Request

SHOWN, OWN = 8, 2
"""Examples in a request, and how many of them were written by the model itself (section 2.2)."""
REQUESTS = 16
"""Requests of a round."""
AT_ONCE = 64
"""Turns of a user that are asked for in a round."""
PATIENCE = 5
"""Rounds in a row without a new instruction after which the model has no more to say."""
ASK = "Come up with new tasks. Here are some; go on with the list.\n\n{examples}\n{next}."
_NUMBERED = re.compile(r"^\s*(\d+)[.)]\s*(.+?)\s*$", re.MULTILINE)
_UNFIT = frozenset(
    [
        "image",
        "images",
        "graph",
        "graphs",
        "picture",
        "pictures",
        "file",
        "files",
        "map",
        "maps",
        "video",
        "audio",
        "draw",
        "plot",
    ]
)
"""Words of instructions that a model of text cannot follow (section 2.2)."""
SHORTEST, LONGEST = 3, 150
"""Words in an instruction."""


def parse(text: str, first: int) -> list[str]:
    """The instructions in a reply that goes on with a numbered list at number `first`."""
    return [said for _, said in _NUMBERED.findall(f"{first}. {text}" if not re.match(r"\s*\d+[.)]", text) else text)]  # fmt: skip


class Gathered:
    """Instructions so far, each with its largest ROUGE-L with any other, those it began with included."""

    def __init__(self, studio: Studio, pool: Sequence[str] = ()) -> None:
        self.studio = studio
        self.known = [words(text) for text in pool]
        self.new: list[tuple[str, float]] = []

    def offer(self, text: str) -> None:
        """Keeps an instruction that is fit and unlike all others; counts what becomes of it."""
        counts = self.studio.counts
        counts["instructions"] += 1
        found = words(text)
        if not SHORTEST <= len(found) <= LONGEST or _UNFIT & {word.rstrip("s") for word in found}:
            counts["unfit"] += 1
            return
        nearest = max((rouge_l(found, other) for other in self.known), default=0.0)
        if nearest >= self.studio.config.diversity:
            counts["too_similar"] += 1
        elif len(self.new) < self.studio.config.prompts:
            self.known.append(found)
            self.new.append((text, nearest))

    def fill(self, ask: Callable[[int], list[str]]) -> list[tuple[str, float]]:
        """Rounds of `ask` (round -> texts) until there are as many as wanted, or nothing new comes."""
        dry = turn = 0
        while len(self.new) < self.studio.config.prompts and dry < PATIENCE:
            before = len(self.new)
            for text in ask(turn):
                self.offer(text)
            dry = 0 if len(self.new) > before else dry + 1
            turn += 1
        return self.new


def _request(seed: int, number: int, pool: Sequence[str], new: Sequence[tuple[str, float]]) -> Request:
    draw = seeds.generator(seed, "examples", number)
    own = [new[i][0] for i in draw.permutation(len(new))[:OWN]]
    shown = [pool[i] for i in draw.permutation(len(pool))[: SHOWN - len(own)]] + own
    listed = [shown[i] for i in draw.permutation(len(shown))]
    text = "\n".join(f"{place}. {' '.join(said.split())}" for place, said in enumerate(listed, start=1))
    asked = ASK.format(examples=text, next=len(listed) + 1)
    return Request([{"role": "user", "content": asked}], number)


def self_instruct(studio: Studio, prompts: Sequence[Record]) -> list[Record]:
    """New instructions after those of `prompts`, and a reply to each; with a verifier, only the replies that score `accept`."""
    pool = [record["prompt"][-1]["content"] for record in prompts]
    gathered = Gathered(studio, pool)

    def ask(turn: int) -> list[str]:
        requests = [_request(studio.seed, turn * REQUESTS + n, pool, gathered.new) for n in range(REQUESTS)]
        return [text for answer in studio.answers(requests) for text in parse(answer.text, SHOWN + 1)]

    # any of the licences may have been an example's
    licences = ", ".join(sorted({record["license"] for record in prompts}))
    return _answered(studio, gathered.fill(ask), licences)


def magpie(studio: Studio) -> list[Record]:
    """What the teacher takes for a user's first turn, and its reply to each; with a verifier, only those that score `accept`."""

    def ask(turn: int) -> list[str]:
        answers = studio.answers([Request([], turn * AT_ONCE + n) for n in range(AT_ONCE)])
        studio.counts["unfinished_instructions"] += sum(not answer.finished for answer in answers)
        return [answer.text for answer in answers if answer.finished]

    return _answered(studio, Gathered(studio).fill(ask), "unknown")


def _answered(studio: Studio, made: Sequence[tuple[str, float]], licence: str) -> list[Record]:
    records: list[Record] = [
        {
            "key": key_of(text), "source": studio.config.method, "license": licence,
            "origin": studio.teacher.name, "prompt": [{"role": "user", "content": text}], "meta": {},
        }
        for text, _ in made
    ]  # fmt: skip
    requests = [Request(studio.asked(record["prompt"])) for record in records]
    answers = studio.answers(requests)
    studio.counts["asked"] += len(requests)
    scores = studio.scores([(record, a.text) for record, a in zip(records, answers, strict=True)])
    least = studio.config.accept if studio.config.accept is not None else float("-inf")
    items = []
    for record, (_, nearest), answer, score in zip(records, made, answers, scores, strict=True):
        if not answer.finished or not answer.text:
            studio.counts["unfinished"] += 1
        elif score < least:
            studio.counts["rejected"] += 1
        else:
            studio.counts["accepted"] += 1
            said = verdict(studio, Sample(0, answer.text, score), nearest=round(nearest, 4))
            items.append(conversation(record, answer.text, said))
    return items
