"""Verifiers of a recipe as scorers: a reward stage's number is the one at the end of the reply; long prompts cost no run."""

from __future__ import annotations

import pytest
import torch
from random_models import random_model

from trivium.generate.sampling import SamplingParams
from trivium.model import scalar
from trivium.recipe.verifiers import RewardVerifier
from trivium.synthesize.journal import Journal
from trivium.synthesize.scoring import open_scorer
from trivium.synthesize.teachers import Local, Request
from trivium.text.chat import ChatTokenizer

TAIL = "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}" + (
    "<|assistant|>{% generation %}{{ m['content'] }}<|end|>{% endgeneration %} over{%- else -%}"
    "<|user|>{{ m['content'] }}<|end|>{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
"""A template with words behind the reply's end, where training reads no reward."""


@pytest.mark.parametrize("template", [None, TAIL])
def test_a_reward_model_scores_the_last_token_of_the_reply(tmp_path, chat, template):
    if template is not None:
        chat = ChatTokenizer(chat.tokenizer, template)
    model = scalar.Scalar(random_model(seed=5)).eval()
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(1))
    scalar.save(model, tmp_path / "reward", eos=chat.end, pad=chat.pad)
    chat.save(tmp_path / "reward", context=64)
    config = RewardVerifier(kind="reward_model", reward_model="r")
    scorer = open_scorer(config, tmp_path, {"r": (tmp_path / "reward", "f")}, Journal(tmp_path / "j"))
    prompt = [{"role": "user", "content": "the cat"}]
    found = scorer.many([({"prompt": prompt}, "sees a ball"), ({"prompt": prompt}, "no")])
    for reply, score in zip(("sees a ball", "no"), found, strict=True):
        whole = chat.encode([*prompt, {"role": "assistant", "content": reply}]).ids
        ids = torch.tensor([whole[: whole.index(chat.end, len(chat.prompt(prompt))) + 1]])
        assert (ids.shape[1] < len(whole)) is (template is not None)
        batch = {
            "tokens": ids,
            "positions": torch.arange(ids.shape[1])[None],
            "doc_id": torch.zeros_like(ids),
        }
        with torch.no_grad():
            values = model(batch, {"values"}).values
        assert score == pytest.approx(float(values[0, -1]), abs=1e-5)
    assert found[0] != found[1]


def test_a_prompt_too_long_for_the_teacher_has_no_answer(tmp_path, checkpoint):
    teacher = Local("t", checkpoint(), "f", "cpu", Journal(tmp_path / "j"))
    long = Request([{"role": "user", "content": "the cat sees a ball " * 50}])
    short = Request([{"role": "user", "content": "the cat"}])
    answers = teacher.answers([long, short, long], SamplingParams(max_new_tokens=4))
    assert [(a.text, a.finished) for a in (answers[0], answers[2])] == [("", False)] * 2
    assert answers[1].reply_tokens > 0
    assert teacher.counts["prompts_too_long"] == 2
