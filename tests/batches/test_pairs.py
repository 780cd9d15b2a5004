"""Preference pairs: two rows each behind the same prompt, with the frozen reference's numbers in the batch."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from trivium.batches.annotate import annotate_reference, response_log_probs
from trivium.batches.pairs import STEP, Pairs
from trivium.batches.rows import BatchSharding, Fixed, Shuffled
from trivium.errors import DataError
from trivium.objectives import Dpo
from trivium.text.chat import ChatTokenizer


def preference(question: str, chosen: str, rejected: str) -> dict[str, object]:
    prompt = [{"role": "user", "content": question}]
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


RECORDS = [preference(f"the {n}", "a dog " * (n % 3 + 1), "no" * (n % 2)) for n in range(7)]


def test_rows_are_the_two_replies_to_one_prompt(chat):
    pairs = Pairs.build(RECORDS, chat, 64)
    assert pairs.count == len(RECORDS)
    for index, record in enumerate(RECORDS):
        rows = pairs.item(index)
        assert [(int(row["pair"]), int(row["label"])) for row in rows] == [(index, 1), (index, 0)]
        for row, side in zip(rows, ("chosen", "rejected"), strict=True):
            expected = chat.response(record["prompt"], record[side])
            used = row["doc_id"] == 0
            assert row["tokens"][used].tolist() == expected.ids
            assert (
                row["targets"][row["loss_mask"] > 0].tolist() == expected.ids[sum(~np.array(expected.mask)) :]
            )
            assert "ref_logp" not in row


def test_rows_are_as_long_as_the_longest_reply_needs(chat):
    longest = max(
        len(chat.response(record["prompt"], record[side]).ids)
        for record in RECORDS
        for side in ("chosen", "rejected")
    )
    pairs = Pairs.build(RECORDS, chat, 1000)
    assert pairs.length % STEP == 0 and longest <= pairs.length < longest + STEP
    assert pairs.item(0)[0]["tokens"].shape == (pairs.length,)
    assert Pairs.build(RECORDS, chat, longest + 1).length == longest + 1
    assert Pairs.build(RECORDS, chat, 1000, length=70).length == 70


def test_what_does_not_fit_is_counted(chat):
    long = "7" * 40
    records = [preference("1", "2", "3"), preference("1", long, "3"), preference(long, "2", "3")]
    pairs = Pairs.build(records, chat, 20)
    account = pairs.account
    assert pairs.count == 1
    assert (account.kept, account.pair_cut, account.prompt_too_long) == (2, 1, 1)
    with pytest.raises(DataError, match="1 prompts are longer than the context of 20 tokens"):
        Pairs.build(records[2:], chat, 20)
    with pytest.raises(DataError, match="no preference pair fits"):
        Pairs.build([], chat, 20)


def test_a_micro_batch_never_parts_a_pair(chat):
    pairs = Pairs.build(RECORDS, chat, 64)
    for step in range(3):
        for batch in Shuffled(pairs.count, pairs.item, BatchSharding(0, 4, 2)).batch(step):
            assert batch["pair"].view(-1, 2).eq(batch["pair"][::2, None]).all()
            assert batch["label"].tolist() == [1, 0] * 2


def test_the_reference_is_computed_once_and_lands_in_its_own_rows(chat, model, tmp_path):
    pairs, path = Pairs.build(RECORDS, chat, 64), tmp_path / "reference.safetensors"
    annotate_reference(pairs, model, path, autocast=nullcontext())
    assert pairs.ref_logp.shape == (len(RECORDS), 2)
    for index in (0, 3, 6):  # each reply on its own, without padding or neighbours
        for side, row in enumerate(pairs.item(index)):
            short = {
                name: torch.from_numpy(row[name][row["doc_id"] == 0])[None]
                for name in ("tokens", "targets", "positions", "loss_mask")
            }
            with torch.no_grad():
                alone = (model(short, {"logp"}).logp * short["loss_mask"]).sum()
            assert float(row["ref_logp"]) == pytest.approx(float(alone), rel=1e-4)
            assert row["ref_logp"] == pairs.ref_logp[index, side]
    again = Pairs.build(RECORDS, chat, 64)
    annotate_reference(again, None, path, autocast=nullcontext())  # type: ignore[arg-type]
    assert np.array_equal(again.ref_logp, pairs.ref_logp)
    assert np.allclose(
        response_log_probs(model, pairs, autocast=nullcontext(), micro=1), pairs.ref_logp, atol=1e-4
    )


def test_dpo_starts_at_ln_2_through_the_real_model(chat, model, tmp_path):
    pairs = Pairs.build(RECORDS, chat, 64)
    annotate_reference(pairs, model, tmp_path / "reference.safetensors", autocast=nullcontext())
    objective = Dpo(0.5)
    for batch in Fixed(pairs.count, pairs.item, 3).batch(0):
        loss = objective(model(batch, objective.wants), batch).total.detach() / objective.weight(batch)
        assert float(loss) == pytest.approx(np.log(2), abs=1e-4)


def test_rows_that_lose_their_whole_reply_are_named(chat):
    """Both kinds of rows that a stage cannot learn from are said with their number in the split."""
    long = preference("7" * 40, "2", "3")
    pairs = Pairs.build([RECORDS[0], long, RECORDS[1], *[long] * 11], chat, 40)
    assert pairs.account.rows_too_long == [2, *range(4, 13)]
    said = pairs.account.warning("train", 40)
    assert (
        "train split" in said
        and "12 rows are left out" in said
        and "rows 2, 4, 5" in said
        and "12 and others" in said
    )
    assert Pairs.build(RECORDS, chat, 64).account.warning("train", 64) is None


CHANGES = (
    "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}<|assistant|>{% generation %}{{ m['content'] }}<|end|>"
    "{% endgeneration %}{%- else -%}<|user|>{% if loop.last %}now: {% endif %}{{ m['content'] }}<|end|>{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def test_a_template_that_changes_the_prompt_is_refused_with_row_and_token(chat):
    """It marks the last turn: what the model is asked with is not what it was trained on."""
    odd = ChatTokenizer(chat.tokenizer, CHANGES)
    with pytest.raises(
        DataError, match="does not keep the prompt as a prefix: token 1 differs, 'no' in the prompt"
    ) as caught:
        Pairs.build(RECORDS[3:], odd, 64)
    assert caught.value.where == "row 1" and "chat_template" in caught.value.fix
