"""Duplicates: the best copy stays, near-copies are found as others find them, lines of many documents are counted."""

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given
from hypothesis import strategies as st

from trivium.corpus import dedup, engine
from trivium.corpus.dedup import lines, minhash
from trivium.corpus.dedup import signatures as marks
from trivium.corpus.dedup.marks import Marks
from trivium.recipe.dedup import Dedup, Fuzzy, Lines


def table(
    folder: Path, texts: list[str], config: Fuzzy, quality: list[float] | None = None
) -> tuple[Path, Marks]:
    """A marks file as the readers write it."""
    signature = marks.signatures(texts, config)
    halves = np.array([marks.text_hash(text) for text in texts], np.uint64)
    columns = {
        "id": np.arange(len(texts)),
        "characters": np.array([len(text) for text in texts]),
        "bytes": np.array([len(text.encode()) for text in texts]),
        "quality": np.array(quality or [0.0] * len(texts)),
        "unit": np.zeros(len(texts)),
        "order": np.arange(len(texts), dtype=np.uint64),
        "key_hash": np.arange(len(texts), dtype=np.uint64),
        "url_hash": np.zeros(len(texts), np.uint64),
        "text_high": halves[:, 0],
        "text_low": halves[:, 1],
        "overlap": np.zeros(len(texts), np.uint64),
    }
    columns |= {f"band{i:02d}": band for i, band in enumerate(marks.bands(signature, config).T)}
    columns["signature"] = pa.FixedSizeListArray.from_arrays(signature.ravel(), signature.shape[1])
    file = folder / "marks.parquet"
    pq.write_table(pa.table(columns), file)
    engine.use("native")
    return file, Marks.read([file])


def words(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(count)]


def edited(base: list[str], seed: int, share: float) -> str:
    """The text with a share of its words replaced."""
    draw = random.Random(seed)
    return " ".join(word if draw.random() > share else f"new{draw.randint(0, 10**6)}" for word in base)


def test_of_equal_texts_the_best_stays(tmp_path: Path) -> None:
    texts = ["one two three", "one  two\nthree", "other", "one two three", ""]
    file, found = table(tmp_path, texts, Fuzzy(), quality=[0.1, 0.9, 0.5, 0.2, 0])
    verdict = dedup.find([file], Dedup(), found, np.zeros(5, bool))
    assert verdict.reason.tolist() == [2, 0, 0, 2, 0]
    file, found = table(tmp_path, texts, Fuzzy())  # no score: the longest, then the first key
    assert dedup.find([file], Dedup(), found, np.zeros(5, bool)).reason.tolist() == [2, 0, 0, 2, 0]
    verdict = dedup.find([file], Dedup(exact=False), found, np.zeros(5, bool))
    assert not verdict.reason.any()


def test_components_join_chains_and_keep_the_best() -> None:
    pairs = np.array([[0, 1], [1, 2], [4, 5]])
    rank = np.array([3, 5, 0, 1, 4, 2])
    dropped, clusters = minhash.components(pairs, np.arange(6) + 100, rank)
    assert dropped.tolist() == [True, True, False, False, True, False]
    assert (clusters.count, clusters.sizes, clusters.largest) == (2, {2: 1, 3: 1}, [3, 2])
    assert clusters.examples == [[102, 100, 101], [105, 104]]


def jaccard(left: str, right: str, n: int = 5) -> float:
    grams = [set(zip(*(text.split()[i:] for i in range(n)), strict=False)) for text in (left, right)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def test_near_copies_are_those_that_share_their_ngrams(tmp_path: Path) -> None:
    """Against the true Jaccard similarity, which nothing estimates: recall where it is high, none where it is low."""
    texts, group = [], []
    for base in range(60):
        original = words(base, 200)
        for copy, share in enumerate((0, 0.01, 0.02, 0.2)):
            texts.append(edited(original, 1000 * base + copy, share))
            group.append(base)
    file, found = table(tmp_path, texts, Fuzzy())
    rank = found.best_first()
    dropped, clusters = minhash.near_copies([file], Fuzzy(), found, np.ones(len(texts), bool), rank)
    pairs = [(i, j) for i, j in combinations(range(len(texts)), 2) if group[i] == group[j]]
    high = {j for i, j in pairs if jaccard(texts[i], texts[j]) > 0.85}
    met = sum(dropped[np.array(group) == group[j]].sum() >= 1 for j in high)
    assert met / len(high) > 0.97
    assert clusters.count == 60 and max(clusters.sizes) <= 4  # nothing joins two originals
    low = list(range(3, len(texts), 4))  # a fifth of the words changed: Jaccard about 0.2
    assert dropped[low].mean() < 0.1
    checked = Fuzzy(similarity=0.99)
    few, _ = minhash.near_copies([file], checked, found, np.ones(len(texts), bool), rank)
    assert few.sum() < dropped.sum() and not (few & ~dropped).any()


def test_the_clusters_are_those_of_datasketch(tmp_path: Path) -> None:
    texts = [edited(words(i % 40, 150), i, 0.01 * (i // 40)) for i in range(160)]
    file, found = table(tmp_path, texts, Fuzzy())
    dropped, _ = minhash.near_copies([file], Fuzzy(), found, np.ones(160, bool), found.best_first())
    index = MinHashLSH(num_perm=112, params=(14, 8))
    theirs = np.zeros(160, bool)
    for i, text in enumerate(texts):
        mine = MinHash(num_perm=112)
        split = text.split()
        mine.update_batch([" ".join(split[j : j + 5]).encode() for j in range(len(split) - 4)])
        theirs[i] = bool(index.query(mine))
        index.insert(str(i), mine)
    assert abs(int(theirs.sum()) - int(dropped.sum())) <= 6


def test_lines_of_many_documents_are_counted_in_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Lines(documents=2, min_characters=4)
    pages = [["Home | About us", f"Story number {'abc'[i]} itself", "ok"] for i in range(3)] + [
        ["home, about US!", "x"]
    ]
    hashes = [np.unique(marks.line_hashes("\n".join(page), config)) for page in pages]
    flat = np.concatenate(hashes)
    pq.write_table(pa.table({"hash": flat[flat != 0]}), tmp_path / "lines.parquet")
    engine.use("native")
    expected = marks.line_hashes("Home   About us", config)
    assert lines.repeated_lines([tmp_path / "lines.parquet"], config, len(flat)).tolist() == expected.tolist()
    monkeypatch.setattr(lines, "LINES_AT_ONCE", 2)
    assert lines.repeated_lines([tmp_path / "lines.parquet"], config, len(flat)).tolist() == expected.tolist()


def test_signatures_see_words_and_characters_of_scripts_without_spaces() -> None:
    config = Fuzzy()
    same = marks.signatures(["The quick, brown fox jumps!", "the QUICK brown fox jumps"], config)
    assert (same[0] == same[1]).all()
    chinese = marks.signatures(
        ["我们在这里写了很长的一句话来比较", "我们在这里写了很长的一句话来比对"], config
    )
    assert 0.5 < (chinese[0] == chinese[1]).mean() < 1
    assert (marks.bands(marks.signatures(["", "..."], config), config) == marks.NONE).all()


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_plain_text_is_hashed_as_any_other(text: str) -> None:
    """The short way for ASCII gives what the long way gives: a letter beyond it is added and taken away with its line."""
    config = Lines(min_characters=1)
    assert marks.line_hashes(text, config).tolist() == marks.line_hashes(text + "\né", config).tolist()[:-1]
