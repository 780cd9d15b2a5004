"""What `trace` finds is there, byte for byte; what is there is found; and how the corpus is cut changes nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivium.errors import DataError
from trivium.trace import index, spans
from trivium.trace.index import Index, build
from trivium.trace.reply import covered, trace
from trivium.trace.spans import maximal

WORDS = st.sampled_from(
    ["the", "cat", "sees", "a", "dog", "é", "42", "한국", "\n\n", "  ", "garden.", "<|end|>", "old", "🙂"]
)
TEXTS = st.lists(WORDS, min_size=0, max_size=30).map(" ".join)
FIXTURES = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def naive(reply: str, texts: list[str], chat, least: int) -> list[tuple[int, int]]:
    """Maximal spans by trying every run of tokens of every document at every character."""
    documents = [chat.guard.plain(text) for text in texts]
    kept, reach = [], -1
    for offset in range(len(reply)):
        (cut,) = spans.cut(chat, [reply[offset:]])
        best = 0
        for ids in documents:
            for start in range(len(ids)):
                alike = 0
                while alike < min(len(cut.ids), len(ids) - start) and cut.ids[alike] == ids[start + alike]:
                    alike += 1
                best = max(best, alike)
        if best < least:
            continue
        end = offset + cut.ends[best - 1]
        if best < len(cut.ids):
            end = min(end, offset + cut.starts[best])
        if end > max(reach, offset):
            kept.append((offset, end))
            reach = end
    return kept


@given(st.lists(TEXTS, min_size=1, max_size=5), TEXTS, st.integers(1, 4))
@FIXTURES
def test_all_maximal_spans_are_found_and_no_other(opened, chat, texts, reply, least):
    corpus = opened(texts)
    found = maximal(reply, chat, [corpus.index], least)
    assert [(one.span.start, one.span.end) for one in found] == naive(reply, texts, chat, least)
    for one in found:
        assert (
            sum(
                ids[place : place + len(one.span.ids)] == list(one.span.ids)
                for ids in map(chat.guard.plain, texts)
                for place in range(len(ids))
            )
            == one.count
        )


@given(st.lists(TEXTS, min_size=1, max_size=5), TEXTS)
@FIXTURES
def test_every_span_is_in_the_documents_it_names(opened, texts, reply):
    half = len(texts) // 2
    corpus = opened(texts[:half], texts[half:])
    try:
        report = trace(reply, [corpus], least=2, documents=100)
    except DataError:
        return
    assert report["verbatim"] == covered(report["spans"], len(reply))
    for span in report["spans"]:
        assert span["text"] == reply[span["start"] : span["end"]]
        holding = {(d["source"], d["document"]) for d in span["documents"]}
        for document in span["documents"]:
            text = [texts[:half], texts[half:]][document["source"]][document["document"]]
            at = document["character"]
            assert text[at : at + len(span["text"])] == span["text"]
            assert text[:at].endswith(document["before"])
            assert text[at + len(span["text"]) :].startswith(document["after"])
            assert document["times"] == text.count(span["text"])
            assert document["key"] == f"{document['source']}/{document['document']}"
        assert len(holding) == len(span["documents"])


@given(
    st.lists(st.sampled_from(["cat", "dog", "garden", "bird", "stone", "river"]), min_size=40, max_size=60),
    st.data(),
)
@FIXTURES
def test_what_is_copied_from_a_document_is_found_in_any_company(opened, words, data):
    corpus = opened([" ".join(words), "something else"])
    start = data.draw(st.integers(0, len(words) - 20))
    copied = " ".join(words[start : start + 20])
    before, after = data.draw(st.tuples(TEXTS, TEXTS))
    reply = f"{before}: {copied}, {after}"
    at = len(before) + 2
    found = trace(reply, [corpus], least=5)["spans"]
    assert any(span["start"] <= at and span["end"] >= at + len(copied) for span in found)


def test_blocks_and_files_change_nothing(opened, chat, tmp_path):
    texts = [f"day {n}: the cat sees {n % 7} red balls and {n % 3} old books at noon" for n in range(60)]
    corpus = opened(texts)
    reply = "well, day 17: the cat sees 3 red balls and 2 old books at noon, and day 3: the cat sees 3 red"
    whole = trace(reply, [corpus], documents=20)
    assert whole["spans"][0]["count"] >= 1 and len(whole["spans"]) > 1
    shards = next(tmp_path.glob("store*/tokens/*/train"))
    for size in (1, 97, 500):
        folder = tmp_path / f"blocks{size}"
        build(shards, folder, lambda event: None, block=size)
        cut = Index(shards, folder)
        assert len(cut.blocks) > 1
        again = trace(reply, [type(corpus)(**{**vars(corpus), "index": cut})], documents=20)
        assert again == whole


def test_order_of_documents_only_renumbers_them(opened):
    texts = [f"the answer to {n} is {n * n} and nothing else at all" for n in range(20)]
    reply = "so the answer to 7 is 49 and nothing else at all"
    one, other = (trace(reply, [opened(order)], documents=50) for order in (texts, texts[::-1]))
    assert [(s["start"], s["end"], s["count"], s["improbability"]) for s in one["spans"]] == [
        (s["start"], s["end"], s["count"], s["improbability"]) for s in other["spans"]
    ]
    first = {texts[d["document"]] for d in one["spans"][0]["documents"]}
    assert first == {texts[::-1][d["document"]] for d in other["spans"][0]["documents"]}
    assert first == {"the answer to 7 is 49 and nothing else at all"}


def test_turns_of_a_conversation_are_texts_of_their_own(opened, write_lines, tmp_path):
    rows = [
        {"key": "a", "source": "jsonl", "license": "MIT", "messages": [
            {"role": "user", "content": "where does the cat sleep at noon"},
            {"role": "assistant", "content": "in the garden by the long street"},
        ]},
        {"key": "b", "source": "jsonl", "prompt": [{"role": "user", "content": "and the dog"}],
         "chosen": "it finds the red ball by the sea", "rejected": "it forgets the answer 42"},
    ]  # fmt: skip
    write_lines(tmp_path / "rows" / "train.jsonl", rows)
    corpus = opened(data=tmp_path / "rows")
    report = trace(
        "sleep at noon\nin the garden by the long street; it finds the red ball by the sea", [corpus], least=3
    )
    found = {span["text"].strip(" ;"): span["documents"][0] for span in report["spans"]}
    assert found["in the garden by the long street"]["part"] == "messages[1] (assistant)"
    assert found["in the garden by the long street"]["license"] == "MIT"
    assert found["it finds the red ball by the sea"]["part"] == "chosen"
    assert (
        found["it finds the red ball by the sea"]["row"],
        found["it finds the red ball by the sea"]["key"],
    ) == (2, "b")


def test_a_reply_shorter_than_the_minimum_is_refused(opened):
    with pytest.raises(DataError, match="the reply has 1 tokens, and spans of 8"):
        trace("a", [opened(["a text"])])


def test_empty_texts_and_an_empty_source_are_no_match(opened):
    corpus = opened(["", ""], [])
    assert trace("the cat sees the red ball in the garden", [corpus])["spans"] == []
    json.dumps(trace("the cat sees the red ball in the garden", [corpus]))


def test_rarer_words_come_first(opened):
    common = ["the cat sees the red ball in the garden"] * 30
    corpus = opened([*common, "zebra quartz vexing jumbled fjord wickets pond"])
    reply = "the cat sees the red ball in the garden; zebra quartz vexing jumbled"
    first, second = trace(reply, [corpus], least=4)["spans"][:2]
    assert "zebra" in first["text"] and first["count"] == 1
    assert "red ball" in second["text"] and second["count"] == 30


def test_ids_of_four_bytes_are_ordered_like_the_bytes_of_the_file():
    import numpy as np

    tokens = np.random.default_rng(0).integers(0, 70_000, 500).astype(np.uint32)
    order = index.sort(tokens)
    raw = [tokens[place:].tobytes() for place in order]
    assert sorted(range(500), key=lambda place: tokens[place:].tobytes()) == order.tolist()
    assert raw == sorted(raw)
    with pytest.raises(DataError, match="2\\^24"):
        index.sort(np.array([2**24], np.uint32))


@given(
    st.lists(st.tuples(TEXTS, st.sampled_from(["MIT", "GPL-3.0", "CC0"])), min_size=2, max_size=8),
    st.data(),
)
@settings(FIXTURES, max_examples=25)
def test_under_a_licence_is_as_if_there_were_no_other_documents(
    opened, write_documents, tmp_path_factory, documents, data
):
    """Also where a longer span of other documents would hide a shorter one: it is looked for among the wanted ones alone."""
    texts, licences = zip(*documents, strict=True)
    tail = data.draw(st.sampled_from(texts))
    reply = f"{data.draw(TEXTS)} {tail} {data.draw(st.sampled_from(texts))[:40]}"
    wanted = [text for text, licence in documents if licence.startswith("G")]
    folder = tmp_path_factory.mktemp("licences")
    write_documents(folder / "train", 0, texts, licences)
    try:
        found = trace(reply, [opened(data=folder)], least=2, documents=100, licences=["gpl-3.0"])
    except DataError:
        return
    alone = trace(reply, [opened(wanted)], least=2, documents=100)

    def told(report):
        return {(s["start"], s["end"], s["count"], len(s["documents"])) for s in report["spans"]}

    assert told(found) == told(alone) and found["verbatim"] == alone["verbatim"]
    assert {d["license"] for s in found["spans"] for d in s["documents"]} <= {"GPL-3.0"}
