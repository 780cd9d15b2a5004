"""What a set of conversations, preferences or feedback looks like, by hand."""

from trivium.corpus.statistics import said, statistics


def test_statistics_by_hand():
    ask = [{"role": "user", "content": "1234"}]
    found = statistics(
        [
            {"key": "a", "prompt": ask, "completion": "x", "label": 1},
            {"key": "a", "prompt": ask, "completion": "xyz", "label": 0},
            {"key": "b", "prompt": ask, "completion": "xy", "label": 1},
        ]
    )
    assert found == {
        "repeated_prompts": 1,
        "prompt_characters": {"median": 4, "p95": 4, "max": 4},
        "completion_characters": {"median": 2, "p95": 3, "max": 3},
        "desirable_share": 0.6667,
    }
    pairs = [{"key": str(n), "prompt": ask, "chosen": "x" * n, "rejected": "xx"} for n in range(1, 5)]
    assert statistics(pairs)["chosen_longer_share"] == 0.5
    assert statistics([{"key": "a", "text": "x"}]) == {}
    assert said(found).startswith("repeated prompts 1, prompt characters (median / p95 / max) 4 / 4 / 4, ")
    assert said(found).endswith("desirable share 66.7%")
