from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trivium.cli import main
from trivium.corpus.steps.quality import QualityModel, QualityStep, features, identity, keep
from trivium.corpus.steps.quality_train import auc, train
from trivium.corpus.words import Splitter, Words
from trivium.errors import DataError
from trivium.recipe.steps import Quality

GOOD = [
    "theorem",
    "lemma",
    "because",
    "therefore",
    "measure",
    "energy",
    "explain",
    "history",
    "careful",
    "evidence",
]
BAD = ["click", "buy", "cheap", "offer", "login", "subscribe", "free", "now", "winner", "casino"]
BOTH = ["the", "of", "and", "to", "a", "in", "is", "it", "was", "for", "with", "on"]


def write(path: Path, words: list[str], seed: int, count: int = 150) -> Path:
    draw = random.Random(seed)
    lines = [
        json.dumps({"text": " ".join(draw.choices(words, k=4) + draw.choices(BOTH, k=30))})
        for _ in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    train(
        write(folder / "good.jsonl", GOOD, 1),
        write(folder / "crawl.jsonl", BAD, 2),
        folder / "model",
        buckets=2**14,
    )
    return folder / "model"


def score(folder: Path, text: str) -> float:
    document = {"text": text}
    assert QualityStep(Quality(model=folder.name), Splitter(), folder.parent)(document) is None
    return float(document["quality"])


def test_it_learns_what_good_examples_have(model: Path) -> None:
    settings = json.loads((model / "quality.json").read_text())
    assert settings["accuracy"] > 0.9 and settings["auc"] > 0.97 and settings["heldout"] >= 10
    assert (
        score(model, "careful evidence explains the theorem")
        > 0.6
        > 0.4
        > score(model, "click now to win cheap free offer")
    )
    assert sorted(path.name for path in model.iterdir()) == ["model.safetensors", "quality.json"]


def test_training_is_deterministic(model: Path, tmp_path: Path) -> None:
    settings = train(
        model.parent / "good.jsonl", model.parent / "crawl.jsonl", tmp_path / "again", buckets=2**14
    )
    assert settings == json.loads((model / "quality.json").read_text())


def test_scores_are_those_of_scikit_learn(model: Path) -> None:
    """The stored model, read back, gives what the library's own decision function gives on the same features."""
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    loaded = QualityModel.load(model)
    texts = ["the theorem of evidence", "casino casino free", "", "un known words"]
    rows = [features(Words(text), 2**14) for text in texts]
    ends = np.cumsum([0, *(len(places) for places, _ in rows)])
    matrix = csr_matrix(
        (np.concatenate([v for _, v in rows]), np.concatenate([p for p, _ in rows]), ends), (4, 2**14)
    )
    theirs = LogisticRegression()
    theirs.classes_, theirs.coef_ = np.array([0, 1]), loaded.weights[None, :].astype(float)
    theirs.intercept_ = np.array([loaded.bias])
    expected = theirs.predict_proba(matrix)[:, 1]
    assert [loaded.score(Words(text)) for text in texts] == pytest.approx(expected, abs=1e-5)


def test_auc_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    draw = np.random.Generator(np.random.PCG64(0))
    good, other = draw.integers(0, 20, 300) / 20 + 0.1, draw.integers(0, 20, 500) / 20
    truth = np.r_[np.ones(300), np.zeros(500)]
    assert auc(good, other) == pytest.approx(roc_auc_score(truth, np.r_[good, other]))


def test_features_do_not_depend_on_the_process() -> None:
    code = "from trivium.corpus.steps.quality import *; print(features(Words('the Quick fox é the'), 4096)[0].tolist())"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    places, values = features(Words("the quick fox the"), 4096)
    assert len(places) == 6 and np.linalg.norm(values) == pytest.approx(
        1
    )  # three words, three different pairs


def test_the_threshold_is_applied_to_the_column() -> None:
    assert keep(0.4, Quality(model="m", min=0.5)) == "quality:min"
    assert keep(0.5, Quality(model="m", min=0.5)) is None
    assert keep(0.0, Quality(model="m")) is None
    assert keep(0.0, None) is None
    assert keep(None, Quality(model="m", min=0.5)) is None


def test_identity_is_the_checksum(model: Path) -> None:
    assert identity(None, model) is None
    assert identity(Quality(model="model"), model.parent) == {
        "sha256": QualityModel.load(model).settings["sha256"]
    }


@pytest.mark.parametrize("damage", ["weights", "settings", "missing", "format"])
def test_a_damaged_model_is_refused(model: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    weights, settings = (model / "model.safetensors").read_bytes(), (model / "quality.json").read_text()
    if damage != "missing":
        flipped = weights[:-1] + bytes([weights[-1] ^ 1])
        (folder / "model.safetensors").write_bytes(flipped if damage == "weights" else weights)
    settings = {"settings": "{", "format": settings.replace("quality-1", "quality-0")}.get(damage, settings)
    (folder / "quality.json").write_text(settings)
    with pytest.raises(DataError, match="quality train"):
        QualityModel.load(folder)


def test_unusable_examples_are_errors(tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", GOOD, 1, 5)
    many = write(tmp_path / "many.jsonl", BAD, 2, 40)
    for good, said in (
        (few, "too few"),
        (tmp_path / "none.jsonl", "no text"),
        (tmp_path / "x.bin", "no text"),
    ):
        with pytest.raises(DataError, match=said):
            train(good, many, tmp_path / "out")
    (tmp_path / "bad.jsonl").write_text('{"no": 1}\n')
    with pytest.raises(DataError, match="line 1"):
        train(tmp_path / "bad.jsonl", many, tmp_path / "out")
    (tmp_path / "bytes.jsonl").write_bytes(b'{"text": "one"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match="line 2"):
        train(tmp_path / "bytes.jsonl", many, tmp_path / "out")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="Parquet"):
        train(tmp_path / "bad.parquet", many, tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists"):
        train(many, many, tmp_path / "out")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("good.jsonl"), GOOD, 1, 40)
    write(Path("crawl.jsonl"), BAD, 2, 40)
    with pytest.raises(SystemExit) as stopped:
        main(["data", "quality", "train", "good.jsonl", "crawl.jsonl", "--out", "model", "--buckets", "4096"])
    assert stopped.value.code == 0
    assert "AUC" in capsys.readouterr().out
    assert QualityModel.load(Path("model")).settings["documents"] == {"good": 40, "crawl": 40}
