"""Single replies with marks: both kinds are there, and the baseline is estimated on replies to other prompts."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from trivium.batches.annotate import annotate_feedback
from trivium.batches.feedback import Feedback, WithBaseline
from trivium.batches.rows import Fixed
from trivium.errors import DataError
from trivium.objectives.sequence import row_log_probs
from trivium.text.chat import ChatTokenizer


def ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


PAIRS = [{"prompt": ask(f"the {n}"), "chosen": "a dog", "rejected": "no"} for n in range(3)]
MARKED = [{"prompt": ask(f"the {n}"), "completion": "a dog", "label": n % 2} for n in range(5)]


def head(chat, encoded) -> str:
    """The question that an encoded conversation asks."""
    return chat.decode(encoded.ids[: encoded.mask.index(True)]).split("the ")[1].strip()[0]


@pytest.mark.parametrize("records", [PAIRS, MARKED], ids=["pairs", "feedback"])
def test_every_reply_is_held_against_another_prompt(chat, records):
    """The two replies to one prompt stand side by side: the next row alone would be the very same prompt."""
    made = Feedback.build(records, chat, 64)
    for (encoded, _), other in zip(made.items, made.mismatched, strict=True):
        assert head(chat, encoded) != head(chat, other)
        said = [i for i, learn in zip(encoded.ids, encoded.mask, strict=True) if learn]
        assert said == [i for i, learn in zip(other.ids, other.mask, strict=True) if learn]
    assert [label for _, label in made.items] == ([1, 0] * 3 if records is PAIRS else [0, 1, 0, 1, 0])
    alone = Feedback.build(PAIRS[:1], chat, 64)  # there is no other prompt
    assert [e.ids for e, _ in alone.items] == [e.ids for e in alone.mismatched]


TOOLS = (
    "{%- for t in tools or [] -%}<|system|>{{ t['name'] }}<|end|>{%- endfor -%}"
    "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}<|assistant|>{% generation %}{{ m['content'] }}<|end|>"
    "{% endgeneration %}{%- else -%}<|user|>{{ m['content'] }}<|end|>{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def test_a_mismatched_prompt_is_the_other_prompt_with_its_own_tools(chat):
    """The other question as its own row asks it: with what may be called there."""
    knowing = ChatTokenizer(chat.tokenizer, TOOLS)
    records = [{**row, "tools": [{"name": f"dog {n}"}]} for n, row in enumerate(MARKED)]
    made = Feedback.build(records, knowing, 64)
    prompts = [encoded.ids[: encoded.mask.index(True)] for encoded, _ in made.items]
    heads = [other.ids[: list(other.mask).index(True)] for other in made.mismatched]
    assert heads == [*prompts[1:], prompts[0]]


def test_one_kind_of_label_cannot_be_trained_on(chat):
    good = [record for record in MARKED if record["label"]]
    with pytest.raises(DataError, match="all 2 replies are desirable"):
        Feedback.build(good, chat, 64)
    assert Feedback.build(good, chat, 64, both=False).count == 2  # but looked at
    with pytest.raises(DataError, match="no reply fits: 5 prompts"):
        Feedback.build(MARKED, chat, 4)


class Machine:
    device = "cpu"
    autocast = staticmethod(nullcontext)


def test_the_baseline_is_the_mean_distance_on_mismatched_replies_that_fit(chat, model, tmp_path):
    """By hand, one row at a time; a reply that a longer prompt pushes out of the context does not count."""
    long = {"prompt": ask("the 9" + "7" * 30), "completion": "a dog", "label": 1}
    size = len(chat.response(long["prompt"], "").ids) + 3
    made = Feedback.build([*MARKED[:4], long], chat, size)
    made.mismatched[3] = type(made.mismatched[3])(
        made.mismatched[3].ids, [False] * len(made.mismatched[3].ids)
    )
    annotate_feedback(made, model, tmp_path / "ref.safetensors", autocast=nullcontext())
    kept = model.model.norm.weight.detach().clone()
    with torch.no_grad():
        model.model.norm.weight.mul_(0.9)
    try:
        batches = WithBaseline(Fixed(made.count, made.item, 2), made, model, Machine()).batch(0)
        apart = []
        for index in range(made.count):
            [row] = made.other(index)
            one = {name: torch.from_numpy(value)[None] for name, value in row.items()}
            if one["loss_mask"].sum():
                with torch.no_grad():
                    now = row_log_probs(model(one, {"logp"}), one)
                apart.append(float(now) - float(made.ref_logp[index, 1]))
    finally:
        with torch.no_grad():
            model.model.norm.weight.copy_(kept)
    assert len(apart) == 4 and sum(apart) > 0
    for batch in batches:
        expected = max(0.0, sum(apart) / 4)
        assert batch["kl"].tolist() == pytest.approx([expected] * len(batch["pair"]), rel=1e-3, abs=1e-4)
