"""C4's rules (Raffel et al. 2020, JMLR 21:140, section 2.2): most look at lines, some at the whole document."""

from __future__ import annotations

import re

from trivium.corpus.steps.base import Document
from trivium.recipe.steps import C4

TERMINAL = (".", "?", "!", '"', "'")
POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_SENTENCE_END = re.compile(r"[.!?…。！？।]+[\"'”’»)\]]*(?=\s|$)|[。！？]")


class C4Step:
    """Drops lines, then documents with too little left. The text of a kept document is what is left of it."""

    name = "c4"
    changes = True

    def __init__(self, config: C4) -> None:
        self.config = config

    def __call__(self, document: Document) -> str | None:
        limit, text = self.config, document["text"]
        lowered = text.lower()
        policy = limit.policy and POLICY.search(lowered) is not None
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
        words = line.split()
        longest = limit.max_word_length
        if longest is not None and len(line) > longest and max(map(len, words)) > longest:
            return None
        if limit.citations and "[" in line:
            line = _CITATION.sub("", line)
        if limit.terminal_punctuation and (not line.endswith(TERMINAL) or line.endswith("...")):
            return None
        return line if len(words) >= (limit.min_words_per_line or 0) else None


def count_sentences(line: str) -> int:
    """Sentences of a line: marks that end one, and what stands after the last of them."""
    ends = list(_SENTENCE_END.finditer(line))
    rest = line[ends[-1].end() :] if ends else line
    return len(ends) + bool(rest.strip())
