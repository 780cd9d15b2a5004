"""Self-instruct (Wang et al. 2023): a model writes new instructions after examples; those unlike all others are answered."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trivium import seeds
from trivium.corpus.records import Record, key_of
from trivium.synthesize.loops import Sample, Studio, conversation, verdict
from trivium.synthesize.rouge import rouge_l, words
from trivium.synthesize.teachers import Request

SHOWN, OWN = 8, 2
"""Examples in a request, and how many of them were written by the model itself (section 2.2)."""
REQUESTS = 16
"""Requests of a round."""
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


def instructions(studio: Studio, pool: Sequence[str]) -> list[tuple[str, float]]:
    """New instructions, each with its largest ROUGE-L with any other, those of `pool` included."""
    config, counts = studio.config, studio.counts
    known = [words(text) for text in pool]
    new: list[tuple[str, float]] = []
    dry = turn = 0
    while len(new) < config.prompts and dry < PATIENCE:
        requests = [_request(studio.seed, turn * REQUESTS + n, pool, new) for n in range(REQUESTS)]
        before = len(new)
        for answer in studio.answers(requests):
            for text in parse(answer.text, SHOWN + 1):
                counts["instructions"] += 1
                found = words(text)
                if not SHORTEST <= len(found) <= LONGEST or _UNFIT & {word.rstrip("s") for word in found}:
                    counts["unfit"] += 1
                    continue
                nearest = max((rouge_l(found, other) for other in known), default=0.0)
                if nearest >= config.diversity:
                    counts["too_similar"] += 1
                elif len(new) < config.prompts:
                    known.append(found)
                    new.append((text, nearest))
        dry = 0 if len(new) > before else dry + 1
        turn += 1
    return new


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
    licences = ", ".join(
        sorted({record["license"] for record in prompts})
    )  # any of them may have been an example
    made: list[tuple[Record, float]] = []
    for text, nearest in instructions(studio, pool):
        turns = [{"role": "user", "content": text}]
        record = {
            "key": key_of(text), "source": "self_instruct", "license": licences,
            "origin": studio.teacher.name, "prompt": turns, "meta": {},
        }  # fmt: skip
        made.append((record, nearest))
    requests = [Request(studio.asked(record["prompt"])) for record, _ in made]
    answers = studio.answers(requests)
    studio.counts["asked"] += len(requests)
    scores = studio.scores([(record, a.text) for (record, _), a in zip(made, answers, strict=True)])
    least = studio.config.accept if studio.config.accept is not None else float("-inf")
    items = []
    for (record, nearest), answer, score in zip(made, answers, scores, strict=True):
        if not answer.finished or not answer.text:
            studio.counts["unfinished"] += 1
        elif score < least:
            studio.counts["rejected"] += 1
        else:
            studio.counts["accepted"] += 1
            said = verdict(studio, Sample(0, answer.text, score), nearest=round(nearest, 4))
            items.append(conversation(record, answer.text, said))
    return items
