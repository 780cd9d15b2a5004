"""Packed documents: every token once an epoch, and no target from another document."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivium.batches.packed import encode, open_shard
from trivium.batches.rows import Fixed, Layout, Shuffled
from trivium.errors import DataError
from trivium.objectives import NextToken

DOCUMENTS = st.lists(st.text("ab 7é", max_size=14), min_size=1, max_size=12)
within = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folders(tmp_path):
    """A new folder with each call: hypothesis shares tmp_path between examples."""
    numbers = iter(range(10**6))
    return lambda: tmp_path / str(next(numbers))


@within
@given(texts=DOCUMENTS, length=st.integers(2, 9))
def test_every_token_is_seen_once_and_learnt_once(chat, folders, texts, length):
    documents = chat.documents(texts)
    stream = [number for ids in documents for number in ids]
    if len(stream) < length:
        return
    packed = open_shard(texts, chat, folders(), length, rows=1, what="the data")
    rows = [packed.item(index)[0] for index in range(packed.count)]
    used = [row["doc_id"] >= 0 for row in rows]
    assert [n for row, real in zip(rows, used, strict=True) for n in row["tokens"][real].tolist()] == stream
    assert all(real.all() for real in used[:-1])  # only the last row may be padded

    # each token is the target of the place before it, but for the first of a document: nobody can know that one
    document_of = np.repeat(np.arange(len(documents)), [len(ids) for ids in documents])
    learnt = []
    for index, row in enumerate(rows):
        for place in np.flatnonzero(row["loss_mask"]):
            here = index * length + int(place)
            assert row["targets"][place] == stream[here + 1]
            assert document_of[here] == document_of[here + 1]
            learnt.append(here + 1)
    firsts = set(np.cumsum([0] + [len(ids) for ids in documents]).tolist())
    assert learnt == [place for place in range(len(stream)) if place not in firsts]


@within
@given(texts=DOCUMENTS, length=st.integers(2, 9))
def test_documents_keep_to_themselves(chat, folders, texts, length):
    documents = chat.documents(texts)
    if sum(map(len, documents)) < length:
        return
    packed = open_shard(texts, chat, folders(), length, rows=1, what="the data")
    document_of = np.repeat(np.arange(len(documents)), [len(ids) for ids in documents])
    for index in range(packed.count):
        row = packed.item(index)[0]
        expected = document_of[index * length : (index + 1) * length]
        real = row["doc_id"][row["doc_id"] >= 0]
        for a in range(len(real)):
            for b in range(len(real)):
                assert (real[a] == real[b]) == (expected[a] == expected[b])
            first = min(b for b in range(len(real)) if real[b] == real[a])
            assert row["positions"][a] == a - first


def test_documents_in_one_row_cost_what_they_cost_alone(chat, model, tmp_path):
    """The sum over a packed row is the sum over the documents, each on its own, through a real model."""
    texts = ["the cat sees", "a", "the dog", "nobody finds the ball"]
    lengths = [len(ids) for ids in chat.documents(texts)]
    objective = NextToken()

    def total(texts: list[str], folder: str, length: int) -> float:
        packed = open_shard(texts, chat, tmp_path / folder, length, rows=1, what="x")
        assert packed.count == 1
        (batch,) = Fixed(1, packed.item, 1).batch(0)
        with torch.no_grad():
            return float(objective(model(batch, objective.wants), batch).total)

    alone = [
        total([text], str(i), length) for i, (text, length) in enumerate(zip(texts, lengths, strict=True))
    ]
    assert total(texts, "all", sum(lengths)) == pytest.approx(sum(alone), rel=1e-5)


def test_an_epoch_of_shuffled_rows_is_the_whole_stream(chat, tmp_path):
    texts = [f"document {i} says {'x' * i}" for i in range(20)]
    stream = [n for ids in chat.documents(texts) for n in ids]
    packed = open_shard(texts, chat, tmp_path, 16, rows=4, what="the data")
    batches = Shuffled(packed.count, packed.item, Layout(0, packed.count, packed.count)).batch(0)
    found = torch.cat([b["tokens"][b["doc_id"] >= 0] for b in batches])
    assert sorted(found.tolist()) == sorted(stream)


def test_encoding_is_done_once_and_survives_a_kill(chat, tmp_path):
    encode(["one", "two"], chat, tmp_path)
    before = (tmp_path / "tokens.bin").stat().st_mtime_ns
    encode(iter(()), chat, tmp_path)
    assert (tmp_path / "tokens.bin").stat().st_mtime_ns == before
    (tmp_path / "shard.json").unlink()  # killed before the shard was whole
    encode(["three"], chat, tmp_path)
    assert open_shard([], chat, tmp_path, 2, rows=1, what="x").tokens.tolist() == chat.document("three")


def test_the_shard_counts_what_it_holds(chat, tmp_path):
    packed = open_shard(["é1", "abc"], chat, tmp_path, 2, rows=1, what="x")
    assert (packed.characters, packed.utf8_bytes, packed.tokens.dtype) == (5, 6, np.uint16)
    assert packed.starts.tolist() == [0, len(chat.document("é1"))]


@pytest.mark.parametrize(("texts", "rows"), [([], 1), ([], 0), (["a"], 1), (["some words", "more"], 9)])
def test_too_little_data_is_a_data_error(chat, tmp_path, texts, rows):
    with pytest.raises(DataError, match=r"the train split has .* less than one batch") as caught:
        open_shard(texts, chat, tmp_path, 16, rows=rows, what="the train split")
    assert "smaller" in caught.value.fix
