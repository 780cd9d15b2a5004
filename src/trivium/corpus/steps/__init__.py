"""What is done to every document on its own, in this order; each step is a file.

A step is called with a document (a dict). It may change the text and add columns, and gives None to keep the document or
the reason for dropping it, such as `gopher:min_words`. Steps hold no counters: the engine counts around them.
"""

from __future__ import annotations

from pathlib import Path

from trivium.corpus.steps.base import Step as Step
from trivium.corpus.steps.c4 import C4Step
from trivium.corpus.steps.fineweb import FineWebStep
from trivium.corpus.steps.gopher import GopherRepetitionStep, GopherStep
from trivium.corpus.steps.language import LanguageStep
from trivium.corpus.steps.normalise import NormaliseStep
from trivium.corpus.steps.pii import PiiStep
from trivium.corpus.steps.quality import QualityStep
from trivium.corpus.words import Splitter
from trivium.recipe.data import DataStage


def build_steps(config: DataStage, folder: Path) -> list[Step]:
    """The steps that a data stage switches on, in the order in which they run. `folder`: the recipe's.

    DataError for a quality model that cannot be read; TriviumError naming the pip command for a missing library.
    """
    split = Splitter()
    steps: list[Step] = []
    if config.normalise:
        steps.append(NormaliseStep(config.normalise))
    if config.language:
        steps.append(LanguageStep(config.language))
    rules = config.rules
    if rules and rules.gopher:
        steps.append(GopherStep(rules.gopher, split, rules.language))
    if rules and rules.gopher_repetition:
        steps.append(GopherRepetitionStep(rules.gopher_repetition, split))
    if rules and rules.c4:
        steps.append(C4Step(rules.c4))
    if rules and rules.fineweb:
        steps.append(FineWebStep(rules.fineweb, split))
    if config.quality:
        steps.append(QualityStep(config.quality, split, folder))
    steps += [step.implementation()(step, folder) for step in config.steps]
    if config.pii:
        steps.append(PiiStep(config.pii))
    return steps
