"""C4's rules (Raffel et al. 2020, JMLR 21:140, section 2.2): most look at lines, some at the whole document."""

from __future__ import annotations

import re

from trivium.corpus.steps.base import Document
from trivium.corpus.words import plain, unspaced
from trivium.recipe.steps import C4

TERMINAL = (".", "?", "!", '"', "'")
POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
_POLICY_PARTS = ("terms of use", " policy", "cookies")
"""One of them is in all that POLICY finds, and looking for these is several times as fast."""
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_SENTENCE_END = re.compile(r"(?<!\.)\.(?!\.)[\"'”’»)\]]*(?=\s|$)|[!?…！？।]+[\"'”’»)\]]*(?=\s|$)|[。！？]")
_DOTS = re.compile(r"\.{2,}[\"'”’»)\]]*(?=\s+[\"'“‘(]*[A-Z]|\s*$)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘-])(?:[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]|mr|mrs|ms|messrs|dr|prof|rev|hon|gen|col|lt|sgt|capt|sen|rep|gov"
    r"|st|jr|sr|vs|cf|al|inc|ltd|co|corp|bros|no|vol|pp|fig|eq|ed|eds|jan|feb|mar|apr|aug|sept?|oct|nov|dec)$",
    re.IGNORECASE,
)
"""What nltk's Punkt takes for an abbreviation in English: initials, titles, firms, months."""


class C4Step:
    """Drops lines, then documents with too little left. The text of a kept document is what is left of it."""

    name = "c4"
    changes = True

    def __init__(self, config: C4) -> None:
        self.config = config

    def __call__(self, document: Document) -> str | None:
        limit, text = self.config, document["text"]
        lowered = text.lower()
        policy = limit.policy and any(part in lowered for part in _POLICY_PARTS)
        policy = policy and POLICY.search(lowered) is not None
        javascript = limit.javascript and "javascript" in lowered
        lorem = limit.lorem_ipsum and "lorem ipsum" in lowered
        kept, sentences, needed = [], 0, limit.min_sentences or 0
        for raw in text.splitlines():
            line = self._line(raw.strip())
            if line is None:
                continue
            if limit.curly_bracket and "{" in line:
                return "c4:curly_bracket"
            if lorem or javascript or policy:
                low = line.lower()
                if lorem and "lorem ipsum" in low:
                    return "c4:lorem_ipsum"
                if (javascript and "javascript" in low) or (policy and POLICY.search(low)):
                    continue
            if sentences < needed:
                sentences += count_sentences(line)
            kept.append(line)
        if sentences < needed:
            return "c4:min_sentences"
        document["text"] = "\n".join(kept).strip()
        return None if document["text"] else "c4:empty"

    def _line(self, line: str) -> str | None:
        """The line as it is kept, None if a rule about its shape drops it."""
        limit = self.config
        longest = limit.max_word_length
        if longest is not None and len(line) > longest and max(map(len, line.split())) > longest:
            return None
        least = limit.min_words_per_line or 0
        enough = len(line.split(None, least)) >= least
        if limit.citations and "[" in line:
            line = _CITATION.sub("", line)
        if limit.terminal_punctuation and (not line.endswith(TERMINAL) or line.endswith("...")):
            return None
        enough = enough or (unspaced(line) and len(plain(line).split()) >= least)
        return line if enough else None


def count_sentences(line: str) -> int:
    """Sentences of a line, as nltk's Punkt counts them: marks that end one, and what stands after the last of them. A full stop
    behind an abbreviation ends none unless the line does, dots only before a capital."""
    ends = [found.end() for found in _SENTENCE_END.finditer(line) if not _abbreviates(line, found)]
    ends += [found.end() for found in _DOTS.finditer(line)]
    rest = line[max(ends) :] if ends else line
    return len(ends) + bool(rest.strip())


def _abbreviates(line: str, found: re.Match[str]) -> bool:
    """Whether a full stop shortens the word before it, with more of the sentence to come."""
    if found[0] != "." or not line[found.end() :].strip():
        return False
    start = line.rfind(" ", 0, found.start()) + 1
    return _ABBREVIATION.search(line[max(0, start - 1) : found.start()]) is not None
