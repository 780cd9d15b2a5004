"""Packed documents: every token once an epoch, and no target from another document."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivium.batches.packed import Corpus, Packed, open_corpus
from trivium.batches.rows import BatchSharding, Fixed, Shuffled
from trivium.errors import DataError
from trivium.objectives import NextToken

DOCUMENTS = st.lists(st.text("ab 7é", max_size=14), min_size=1, max_size=12)
within = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def open_texts(texts, chat, write_documents, folder, length, rows) -> Corpus:
    split = folder / "data" / "train"
    split.mkdir(parents=True)
    if texts:
        write_documents(split, 0, texts)
    return open_corpus(split, chat, folder / "tokens", length, rows=rows, what="the data")


def one(corpus: Corpus) -> Packed:
    (packed,) = corpus.sources
    return packed


@pytest.fixture
def folders(tmp_path):
    """A new folder with each call: hypothesis shares tmp_path between examples."""
    numbers = iter(range(10**6))
    return lambda: tmp_path / str(next(numbers))


@within
@given(texts=DOCUMENTS, length=st.integers(2, 9))
def test_every_token_is_seen_once_and_learnt_once(chat, write_documents, folders, texts, length):
    documents = chat.documents(texts)
    stream = [number for ids in documents for number in ids]
    if len(stream) < length:
        return
    packed = one(open_texts(texts, chat, write_documents, folders(), length, 1))
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
def test_documents_keep_to_themselves(chat, write_documents, folders, texts, length):
    documents = chat.documents(texts)
    if sum(map(len, documents)) < length:
        return
    packed = one(open_texts(texts, chat, write_documents, folders(), length, 1))
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


def test_documents_in_one_row_cost_what_they_cost_alone(chat, model, write_documents, tmp_path):
    """The sum over a packed row is the sum over the documents, each on its own, through a real model."""
    texts = ["the cat sees", "a", "the dog", "nobody finds the ball"]
    lengths = [len(ids) for ids in chat.documents(texts)]
    objective = NextToken()

    def total(texts: list[str], folder: str, length: int) -> float:
        packed = one(open_texts(texts, chat, write_documents, tmp_path / folder, length, 1))
        assert packed.count == 1
        (batch,) = Fixed(1, packed.item, 1).batch(0)
        with torch.no_grad():
            return float(objective(model(batch, objective.wants), batch).total)

    alone = [
        total([text], str(i), length) for i, (text, length) in enumerate(zip(texts, lengths, strict=True))
    ]
    assert total(texts, "all", sum(lengths)) == pytest.approx(sum(alone), rel=1e-5)


def test_an_epoch_of_shuffled_rows_is_the_whole_stream(chat, write_documents, tmp_path):
    texts = [f"document {i} says {'x' * i}" for i in range(20)]
    stream = [n for ids in chat.documents(texts) for n in ids]
    packed = one(open_texts(texts, chat, write_documents, tmp_path, 16, 4))
    batches = Shuffled(packed.count, packed.item, BatchSharding(0, packed.count, packed.count)).batch(0)
    found = torch.cat([b["tokens"][b["doc_id"] >= 0] for b in batches])
    assert sorted(found.tolist()) == sorted(stream)


def test_a_row_names_its_documents(chat, write_documents, tmp_path):
    texts = [f"document {i} says {'x' * i}" for i in range(20)]
    packed = one(open_texts(texts, chat, write_documents, tmp_path, 16, 1))
    document_of = np.repeat(np.arange(20), [len(ids) for ids in chat.documents(texts)])
    for index in range(packed.count):
        inside = sorted(set(document_of[index * 16 : (index + 1) * 16].tolist()))
        assert packed.documents(index) == [f"0/{number}" for number in inside]


def test_validation_rows_come_from_all_sources_and_each_once(chat, write_documents, tmp_path):
    split = tmp_path / "data" / "train"
    for source, word in enumerate(("cat", "dog", "ball")):
        write_documents(split, source, [f"the {word} number {i}" for i in range(40)])
    corpus = open_corpus(split, chat, tmp_path / "tokens", 16, rows=1, what="x")
    found = np.concatenate(
        [row["tokens"][row["doc_id"] >= 0] for i in range(corpus.count) for row in corpus.item(i)]
    )
    assert sorted(found.tolist()) == sorted(n for s in corpus.sources for n in s.tokens.tolist())
    sources = [s.shard.key(0)[0] for s in corpus.sources]
    assert sources == ["0", "1", "2"]
    first = " ".join(chat.decode(corpus.item(i)[0]["tokens"]) for i in range(12))
    assert all(word in first for word in ("cat", "dog", "ball"))


@pytest.mark.parametrize(("texts", "rows"), [([], 1), ([], 0), (["a"], 1), (["some words", "more"], 9)])
def test_too_little_data_is_a_data_error(chat, write_documents, tmp_path, texts, rows):
    with pytest.raises(DataError, match=r"the data has .* less than one batch") as caught:
        open_texts(texts, chat, write_documents, tmp_path, 16, rows)
    assert "smaller" in caught.value.fix
