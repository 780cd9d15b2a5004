"""Replies of a model that are held to a schema each."""

from __future__ import annotations

import json

from random_models import random_model

from trivium.errors import DataError
from trivium.generate.constrain import Held
from trivium.verify.judge import choosing, judging, verdict_in


def test_replies_of_a_random_model_are_verdicts_and_the_same_in_any_company(chat):
    held = Held(random_model(context=4096).eval(), chat)
    questions = [judging("Is it?", f"q{n}", "r" * n) for n in range(3)]
    questions += [choosing("use", "q", "one", "two", reasons=True)]
    asked = [(one.messages, one.schema) for one in questions]
    together = [answer.text for answer in held(asked, 2000)]
    for said, question in zip(together, questions, strict=True):
        assert verdict_in(said, question) in question.verdicts, said
    assert [held([one], 2000)[0].text for one in asked] == together
    assert set(json.loads(together[-1])) == {"nonce", "reasons", "verdict"}


def test_a_question_without_room_is_no_reply_and_the_others_go_on(chat):
    held = Held(random_model(context=4096).eval(), chat)
    short, long = judging("Is it?", "q", "r"), judging("Is it?", "q", "xyz" * 1400)
    said = held([(one.messages, one.schema) for one in (long, short)], 200)
    assert isinstance(said[0], DataError) and "the context is 4096" in said[0].what
    assert verdict_in(said[1].text, short) in ("yes", "no")
    assert isinstance(held([(short.messages, {"type": "notatype"})], 200)[0], DataError)
