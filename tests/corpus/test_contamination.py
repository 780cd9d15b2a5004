"""Overlap with evaluation items is seen in every script."""

from pathlib import Path

import pytest

from trivium.corpus import records
from trivium.corpus.contamination import Evaluated

TEXTS = {
    "chinese": "他昨天去图书馆借了三本关于古代天文学的书并且读到深夜",
    "japanese": "彼は昨日図書館で古代の天文学についての本を三冊借りて夜遅くまで読んだ",
    "thai": "เมื่อวานเขาไปห้องสมุดและยืมหนังสือเกี่ยวกับดาราศาสตร์โบราณสามเล่ม",
    "english": "yesterday he went to the library and borrowed three books about ancient astronomy and read late",
}


@pytest.mark.parametrize("script", TEXTS)
def test_a_quotation_is_found(script: str, tmp_path: Path) -> None:
    rows = [{"key": "k", "source": "jsonl", "text": TEXTS[script]}]
    records.write(tmp_path / "heldout.jsonl", rows)
    seen = Evaluated.read({"exam": tmp_path}, 13)
    assert seen.overlap("other", [f"前 before: {TEXTS[script]}, after"]) == 1
    assert seen.overlap("other", [TEXTS[script][: len(TEXTS[script]) // 6]]) == 0
