"""Whether a reply says what a text says: the content words that the two share.

Content words are all but articles, pronouns, auxiliaries and the like, in lower case and without the endings that grammar adds;
numbers, code and words that deny (not, never, without) count as they are written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from trivium.verify.answers import reference

_WORD = re.compile(r"\w(?:[\w./:=-]*\w)?")
_CODE = re.compile(r"[\d_./:=]")
_ENDINGS = ("ing", "ies", "ed", "es", "s", "e", "y")
_EMPTY = frozenset(
    re.findall(
        r"\w+",
        """
        a about all also am an and any are as at be because been being both but by can could did do does doing done
        each either else every few for from had has have having he her here him his how however i if in into is it its
        just may me might more most much must my of on one ones only or other our out over own same shall she should
        so some such than that the their them then there these they this those through thus to too under until up upon
        us very was we were what when where whether which while who whom whose why will with would you your
        """,
    )
)
"""Words that carry grammar and no content."""


def content(text: str) -> list[str]:
    """The content words of a text, in their order."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in _EMPTY]


def _stem(word: str) -> str:
    """Without the endings of number, tense and the like, one after another: `warnings` and `warned` are `warn`."""
    while not _CODE.search(word):
        ending = next((e for e in _ENDINGS if word.endswith(e) and len(word) - len(e) >= 3), None)
        if ending is None:
            break
        word = word[: -len(ending)]
    return word


def overlap(said: Iterable[str], wanted: Iterable[str]) -> float:
    """F1 of two bags of words, 0 to 1 (Rajpurkar et al. 2016, SQuAD); 0 where one of them is empty."""
    one, other = Counter(said), Counter(wanted)
    same = (one & other).total()
    return 2 * same / (one.total() + other.total()) if same else 0.0


def grounded(record: Mapping[str, Any], reply: str) -> float:
    """How much of a reply is the record's answer and the other way round, 0 to 1; 0 for a record without an answer."""
    wanted = reference(record)
    return overlap(content(reply), content(wanted)) if wanted else 0.0
