"""The most used names of the standard library, each with what one line can say of it.

How often a name is used is counted in the standard library's own source: a dotted name by its occurrences, a method of a
built-in type by the calls of its last part, shared among the types that have it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from trivium.demo import python_docs
from trivium.demo.python_docs import Doc

SHORTEST, LONGEST = 15, 90
"""Characters of a description that is taken."""
METHODS_OF = ("str", "list", "dict", "set")
"""Built-in types whose methods are counted among the names."""
_DOTTED = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.\w+)*")
_CALLED = re.compile(r"\.(\w+)\(")
_UNCLEAN = re.compile(r"->|>>>|::|\n|[{}\\|<>`]|\bXXX\b|https?:")


@dataclass(frozen=True)
class Name:
    """A name that can be asked about."""

    subject: str  # os.path.join
    kind: str  # module, function, class, exception or method
    module: str  # os.path; builtins for what needs no import
    signature: str  # os.path.join(a, *p), or empty where the documentation states none
    description: str  # one sentence


@cache
def names() -> tuple[Name, ...]:
    """Every documented name whose first sentence is short and clean, the most used first."""
    documented = python_docs.docstrings()
    uses = _uses(documented)
    described = [_name(doc) for doc in documented]
    clean = [name for name in described if name is not None]
    return tuple(sorted(clean, key=lambda name: (-uses[name.subject], name.subject)))


def _uses(docs: Iterable[Doc]) -> Counter[str]:
    dotted: Counter[str] = Counter()
    called: Counter[str] = Counter()
    for _, path in python_docs.modules(private=True):
        text = path.read_text(encoding="utf-8", errors="replace")
        dotted.update(_DOTTED.findall(text))
        called.update(_CALLED.findall(text))
    owners = Counter(doc.subject.rpartition(".")[2] for doc in docs if doc.kind == "method")
    uses: Counter[str] = Counter()
    for doc in docs:
        owner, _, last = doc.subject.rpartition(".")
        if doc.kind == "method":
            uses[doc.subject] = called[last] // owners[last] if owner in METHODS_OF else 0
        else:
            uses[doc.subject] = dotted[doc.subject]
    return uses


def _name(doc: Doc) -> Name | None:
    description = first_sentence(doc.text)
    if description is None:
        return None
    parts = doc.subject.split(".")
    depth = {"module": 0, "method": 2}.get(doc.kind, 1)
    module = ".".join(parts[:-depth] if depth else parts) or "builtins"
    signature = f"{doc.subject}{doc.signature}" if doc.signature and len(doc.signature) <= 40 else ""
    return Name(doc.subject, doc.kind, module, signature, description)


def first_sentence(text: str) -> str | None:
    """The first sentence of a docstring, ending in a full stop; None if it is long or no clean English."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?])\s", paragraph)[0].rstrip(".:; ")
    if (
        not SHORTEST <= len(sentence) <= LONGEST
        or _UNCLEAN.search(sentence)
        or sentence.count("(") != sentence.count(")")
    ):
        return None
    if not re.match(r"[A-Z][A-Za-z-]+ \w", sentence):
        return None
    return f"{sentence}."
