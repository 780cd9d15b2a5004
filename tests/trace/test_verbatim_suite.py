"""The suite `verbatim`: long spans are hits, short ones misses, and what is not known is neither."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from trivium.errors import DataError
from trivium.evaluate.asked import Answer, Item
from trivium.evaluate.suites.verbatim import SUITE
from trivium.recipe.suites import Verbatim
from trivium.trace.corpora import Known
from trivium.verify.replies import Reply

TEXT = "the cat sees the red ball in the garden and the dog finds an old book at noon by the sea"
REPLIES = [f"So {TEXT}!", "zzz qqq vvv xxx jjj www", "a"]


def verdicts(known: Known, **fields) -> list[list]:
    suite = Verbatim(kind="verbatim", data="talks", **fields)
    answers = [Answer(Reply(text, True)) for text in REPLIES] + [Answer(failed="no answer came")]
    subject = SimpleNamespace(known=known, replies=lambda items, most: answers)
    items = [Item(str(n), "", "", (), {}) for n in range(len(answers))]
    found = SUITE.ask(subject, items, suite, None)
    assert found[-1].failed
    return [
        [
            (verdict.judge, getattr(verdict.outcome, "value", verdict.outcome), verdict.score)
            for verdict in SUITE.judge(item, one)
        ]
        for item, one in zip(items[:-1], found[:-1], strict=True)
    ]


@pytest.fixture
def known(opened, tmp_path) -> Known:
    return Known((opened([TEXT, "nobody likes the long street"]).trained,), (), tmp_path / "store0")


def outcomes(found: list[list]) -> list[str]:
    return [str(one[0][1]) for one in found]


def test_a_long_span_is_a_hit_and_counts_with_its_share(known):
    found = verdicts(known, tokens=10)
    hit, miss, short = outcomes(found)
    assert hit != miss == short
    assert found[0][1][2] == pytest.approx(len(TEXT) / len(REPLIES[0]), abs=0.05)
    assert found[1][1][2] == found[2][1][2] == 0.0


def test_of_other_licences_nothing_is_told(known):
    assert (
        outcomes(verdicts(known, tokens=10, licences=("GPL-3.0",)))[0]
        == outcomes(verdicts(known, tokens=10))[1]
    )
    assert outcomes(verdicts(known, tokens=10, licences=("Unknown",))) == outcomes(verdicts(known, tokens=10))
    assert outcomes(verdicts(known, tokens=5000))[0] == outcomes(verdicts(known, tokens=10))[1]


def test_a_longer_span_of_another_licence_hides_nothing(opened, write_documents, tmp_path):
    """All of the reply stands in a document under MIT, most of it under GPL: that is a span of GPL's, too."""
    cut = TEXT[: TEXT.index(" by the sea")]
    others = [f"{TEXT} number {n}" for n in range(300)]
    licences = ["MIT"] * len(others) + ["GPL-3.0"]
    write_documents(tmp_path / "mixed" / "train", 0, [*others, cut], licences)
    mixed = Known((opened(data=tmp_path / "mixed").trained,), (), tmp_path / "store0")
    hit, miss, _ = outcomes(verdicts(mixed, tokens=10, licences=("GPL-3.0",)))
    assert hit != miss and hit == outcomes(verdicts(mixed, tokens=10))[0]
    assert outcomes(verdicts(mixed, tokens=10, licences=("CC0",)))[0] == miss


def test_where_training_data_is_not_known_no_reply_is_clean(known):
    found = outcomes(verdicts(Known(known.trained, ("what 'hub' saw",), known.store), tokens=10))
    assert found[0] == outcomes(verdicts(known, tokens=10))[0]
    assert all("not known" in one for one in found[1:])
    with pytest.raises(DataError, match="nothing is known"):
        verdicts(Known())
