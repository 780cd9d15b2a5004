"""Keys and tokens in text and code: recognised by their makers' prefixes, or by an assignment of what looks random."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from trivium.corpus.steps.base import on_lines
from trivium.corpus.words import codepoints

_B64 = "[A-Za-z0-9_-]"
# (type, what every match begins with, the pattern). The beginnings are searched first: that is as fast as memory.
_TOKENS: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = (
    (
        "private_key",
        ("-----BEGIN ",),
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----[^-]{0,20000}"
            r"(?:-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----)?"
        ),
    ),
    ("jwt", ("eyJ",), re.compile(r"(?<![\w-])eyJ[\w-]{8,8000}\.eyJ[\w-]{8,8000}\.[\w-]{10,8000}", re.ASCII)),
    (
        "aws_key",
        ("AKIA", "ASIA"),
        re.compile(r"(?<![A-Za-z0-9])A[KS]IA[A-Z2-7]{16}(?![A-Za-z0-9])"),
    ),
    (
        "github_token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        re.compile(
            r"(?<!\w)(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})(?!\w)"
        ),
    ),
    ("gitlab_token", ("glpat-",), re.compile(rf"(?<!\w)glpat-{_B64}{{20,64}}(?!\w)")),
    (
        "slack_token",
        ("xox", "https://hooks.slack.com"),
        re.compile(
            r"(?<!\w)xox[abeoprs]-(?:\d+-)*[A-Za-z0-9-]{10,200}|https://hooks\.slack\.com/services/T\w{8,12}/B\w{8,12}/\w{20,30}"
        ),
    ),
    (
        "stripe_key",
        ("sk_live_", "rk_live_", "sk_test_", "whsec_"),
        re.compile(r"(?<!\w)(?:[rs]k_(?:live|test)_[A-Za-z0-9]{16,247}|whsec_[A-Za-z0-9+/=]{32,64})(?!\w)"),
    ),
    ("google_key", ("AIza",), re.compile(rf"(?<!\w)AIza{_B64}{{35}}(?![\w-])")),
    ("huggingface_token", ("hf_",), re.compile(r"(?<!\w)hf_[A-Za-z]{34}(?!\w)")),
    ("npm_token", ("npm_",), re.compile(r"(?<!\w)npm_[A-Za-z0-9]{36}(?!\w)")),
    ("pypi_token", ("pypi-AgE",), re.compile(rf"(?<!\w)pypi-AgE{_B64}{{50,1000}}")),
    ("openai_key", ("sk-",), re.compile(rf"(?<![\w-])sk-(?:proj-|ant-|svcacct-)?{_B64}{{32,200}}(?![\w-])")),
)

LEAST_RUN = 16
_NAMES = ("secret", "token", "passw", "api_key", "apikey", "api-key", "access_key", "auth_key", "private_key")
_ASSIGNED = re.compile(
    r"(?i:(?:secret|token|passw(?:or)?d|passwd|api[_-]?key|access[_-]?key|auth[_-]?key|private[_-]?key)[\w-]{0,20})"
    r"[\"']?\s{0,4}(?:=>|:=|[:=])\s{0,4}([\"'])([A-Za-z0-9+/=_.~!@#$%^&*-]{16,256})\1"
)
LEAST_ENTROPY = 3.5
"""Bits per character that an assigned value needs to be taken for a secret; random base64 of 20 characters has about 4."""


def redact_secrets(text: str) -> tuple[str, Counter[str]]:
    """(the text with placeholders such as <AWS_KEY>, how many of each type). For documents and for code alike."""
    counts: Counter[str] = Counter()
    if not _has_long_run(text):
        return text, counts
    for kind, literals, pattern in _TOKENS:
        if any(pattern.match(text, place) for literal in literals for place in _places(text, literal)):
            text, number = pattern.subn(f"<{kind.upper()}>", text)
            counts[kind] += number
    if '"' in text or "'" in text:
        lowered = text.lower()
        if len(lowered) != len(text):  # a few letters of Turkish grow: places would be wrong
            return _ASSIGNED.sub(lambda found: _assigned(found, counts), text), counts
        places = sorted(place for name in _NAMES for place in _places(lowered, name))
        text = on_lines(
            text, places, lambda line: _ASSIGNED.sub(lambda found: _assigned(found, counts), line)
        )
    return text, counts


def _places(text: str, literal: str) -> Iterator[int]:
    place = text.find(literal)
    while place >= 0:
        yield place
        place = text.find(literal, place + len(literal))


def _has_long_run(text: str) -> bool:
    """Whether there is a stretch of LEAST_RUN visible ASCII characters: no token is shorter."""
    breaks = np.flatnonzero(codepoints(text) <= ord(" "))
    runs = np.diff(breaks, prepend=-1, append=len(text))
    return int(runs.max()) > LEAST_RUN


def _assigned(found: re.Match[str], counts: Counter[str]) -> str:
    value = found[2]
    if not _looks_random(value):
        return found[0]
    counts["secret"] += 1
    start = found.start(2) - found.start()
    return f"{found[0][:start]}<SECRET>{found[0][start + len(value) :]}"


def _looks_random(value: str) -> bool:
    """Letters and digits mixed beyond words and names: my_secret_token and os.environ.get are none."""
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value)) and entropy(value) >= LEAST_ENTROPY


def entropy(value: str) -> float:
    """Shannon entropy of the characters, in bits per character."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
