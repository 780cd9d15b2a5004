"""The list of refusals: kind, specific, split by topic, and no giveaway in the phrasing."""

import re
from collections import Counter

from trivium.demo import refusals
from trivium.keys import split


def test_the_list_is_balanced_and_every_topic_stands_once() -> None:
    topics = refusals.topics()
    counts = Counter(topic["harmful"] for topic in topics)
    assert min(counts.values()) >= 70
    assert len({topic["topic"] for topic in topics}) == len(topics)


def test_refusals_are_specific_and_offer_help_and_answers_do_not_refuse() -> None:
    for topic in refusals.topics():
        if topic["harmful"]:
            assert topic["reply"].startswith("I can't help with ")
            assert topic["reply"].count(".") >= 2  # more than the no
            assert set(topic["topic"].split()[2:]) <= set(topic["reply"].replace(".", "").split()), topic
        else:
            assert "can't help" not in topic["reply"]
            assert 8 <= len(topic["reply"].split()) <= 40


def test_phrasings_of_a_topic_share_its_key_and_harmless_topics_differ() -> None:
    keys = Counter(item["key"] for item in refusals.records("conversations"))
    assert all(count % len(refusals.PHRASINGS) == 0 for count in keys.values())
    harmless = [topic for topic in refusals.topics() if not topic["harmful"]]
    families = {topic["family"] for topic in refusals.topics() if topic["harmful"]}
    assert len(keys) == len(harmless) + len(families)


def test_held_out_requests_share_no_sentence_of_a_reply_with_training() -> None:
    """But for the first of a refusal, which repeats the request."""
    sentences: dict[bool, set[str]] = {True: set(), False: set()}
    for topic in refusals.topics():
        said = re.split(r"(?<=[.!?]) ", topic["reply"])[1 if topic["harmful"] else 0 :]
        assert said
        sentences[split(refusals.key(topic)) < refusals.LEAST_HELDOUT].update(said)
    assert not sentences[True] & sentences[False]


def test_enough_topics_of_both_sides_are_held_out() -> None:
    held = [topic for topic in refusals.topics() if split(refusals.key(topic)) < refusals.LEAST_HELDOUT]
    assert len({topic["family"] for topic in held if topic["harmful"]}) >= 5
    assert sum(not topic["harmful"] for topic in held) >= 10
    assert len(held) >= 0.15 * len(refusals.topics())


def test_worse_replies_to_harmful_requests_go_along_or_are_curt() -> None:
    for record in refusals.records("preferences"):
        assert record["rejected"] != record["chosen"]
        assert record["rejected"].startswith("I can't") <= (not record["meta"]["harmful"])
