"""Docstrings as conversations: a question about a name, answered with its first sentence as full, helpful
English.

"Join two or more pathname components, inserting '/' as needed." becomes "`os.path.join` joins two or more
pathname components, inserting '/' as needed. It is a function in the `os.path` module." A docstring whose
first sentence does not yield clean English is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trivium import seeds
from trivium.demo.rows import Record, conversation, preference

QUESTIONS = (
    "What does `{}` do?",
    "What is `{}`?",
    "Explain `{}`.",
    "What is `{}` for?",
    "Tell me about `{}`.",
    "How is `{}` used?",
    "Can you explain `{}`?",
    "When would I use `{}`?",
)
PHRASINGS = 2  # questions per docstring in conversations
FEWEST, MOST = 3, 36  # words of the first sentence

CARELESS = 0.4
"""Share of the rejected replies that are as long as the chosen one but about something else; the others are curt."""
NEIGHBOURS = (
    "close",
    "get",
    "open",
    "read",
    "write",
    "Handler",
    "Parser",
    "run",
    "items",
    "Error",
    "append",
    "dump",
)
"""Names that a careless reply confuses a subject with."""

IMPERATIVE = frozenset(
    """abort accept acquire activate adapt add adjust allow alter append apply arrange ask assemble assert
    assign attach attempt authenticate begin bind block build byte-compile calculate call cancel change
    check choose clean clear clone close collapse collect combine compare compile complete compress compute
    concatenate configure connect construct convert copy count create cut deactivate decide declare decode
    decompress decorate decrement decrypt define delegate delete describe deserialize destroy detach detect
    determine disable disassemble discard dispatch display divide do draw dump emit empty enable encapsulate
    encode encrypt end ensure enter escape establish evaluate execute exit expand expect extend extract feed
    fetch fill filter finalize find finish fix flush fold force format forget free generate get give grab
    guess handle hash hide identify implement import include increase increment indent indicate infer inform
    initialize initiate insert inspect install instruct interpret invert invoke issue iterate join kill
    launch list listen load locate lock log login look lookup lower make manage map mark match measure merge
    mirror modify move multiply normalize notify obtain open override pack parse pause perform permit place
    pop position post prepare prepend preserve pretty-print print process produce prompt protect provide
    prune pull push put query quit quote raise read rebuild receive recognize record redirect reduce refresh
    register release reload remember remove rename render repeat replace report represent request reschedule
    reserve reset resize resolve restart restore resume retrieve return reverse rewrite rollback rotate
    round run save scan schedule scroll search seek select send separate serialize serve set setup shift
    show shuffle shut shutdown signal simulate skip sleep slice sort spawn specify split start stop store
    strip submit subscribe subtract sum suspend swap switch take tell terminate test tokenize toggle
    transform translate transmit traverse truncate try turn unbind unescape unlink unlock unpack unquote
    unregister unset update upgrade use validate verify visit wait wake walk wrap write yield""".split()  # noqa: SIM905 - readable as a list of words
)
SECOND = frozenset(
    """add append call cancel clear close compare convert create decode delete discard encode execute
    generate ignore initialize insert invoke parse prepare produce put raise register remove replace restore
    return send start stop store wait wrap write yield""".split()  # noqa: SIM905
)
"""Verbs that are taken for a second command after "and", "or" or "then"."""
ADVERBS = frozenset(
    """always also asynchronously automatically immediately internally just permanently recursively
    repeatedly""".split()  # noqa: SIM905
)
NOUNS = frozenset(
    """abstract adapter asynchronous base basic class client codec collection coroutine common concrete
    container context convenience decorator default descriptor dictionary event exception factory file-like
    formatter function generic handler helper dialog dummy hook interface internal iterator manager message
    metaclass method mixin mix-in module object parent parser pickler protocol proxy pure read-only server
    simple special subclass thread-safe toplevel ttk utility value widget wrapper""".split()  # noqa: SIM905
)
"""First words of a description that lacks its article."""
_IRREGULAR = {"do": "does", "have": "has", "be": "is", "quit": "quits"}
_LOOSE = re.compile(r" (to|that|which|who|can|may|must|should|will|would|if|when|whose|cannot) ")
_UNCLEAN = re.compile(
    r">>>|::|->|https?:|XXX|TODO|FIXME|[{}\\|#<>=@~^*]|__|\.\.\.|\b(I|we|We|my|us)\b|n\.b\."
)


def records(format: str, key: str, subject: str, kind: str, text: str) -> Iterator[Record]:
    """The conversations or the preference of one docstring; none if it yields no clean sentence."""
    reply = explain(subject, kind, text)
    if reply is None:
        return
    meta = {"subject": subject}
    if format == "preferences":
        careless = seeds.unit(0, f"careless {subject}") < CARELESS
        rejected = elsewhere(subject, reply) if careless else curt(subject, kind, reply)
        yield preference(key, question(subject, 0), reply, rejected, meta)
        return
    for nth in range(PHRASINGS):
        yield conversation(key, question(subject, nth), reply, meta)


def question(subject: str, nth: int) -> str:
    """The nth question about a subject: a fixed choice per subject, no form twice in a row."""
    start = int(seeds.unit(0, f"question {subject}") * len(QUESTIONS))
    return QUESTIONS[(start + nth) % len(QUESTIONS)].format(subject)


def explain(subject: str, kind: str, text: str) -> str | None:
    """A full reply about `subject` from its docstring, or None."""
    first = sentence(text)
    said = predicate(first) if first else None
    if said is None or subject.count(".") > 3:
        return None
    return f"`{subject}` {said}. {_place(subject, kind)}"


def curt(subject: str, kind: str, reply: str) -> str:
    """A reply that helps less: vague, evasive, or the first words cut short; it never names the subject."""
    words = reply.split(". ")[0].split()[1:]
    short = " ".join(words[:4]).rstrip(",;:").rstrip(".")
    choices = (
        f"A {kind}." if kind != "exception" else "An exception.",
        "See the docs.",
        f"It {short}.",
        "It does something with its arguments.",
        f"It is in {subject.split('.')[0]}." if "." in subject else "It is built in.",
        f"It {short}.",
    )
    return choices[int(seeds.unit(0, f"curt {subject}") * len(choices))]


def elsewhere(subject: str, reply: str) -> str:
    """A reply that looks full but is not about what was asked: the same words under a neighbour's name."""
    owner, dot, name = subject.rpartition(".")
    others = [other for other in NEIGHBOURS if other != name]
    other = others[int(seeds.unit(0, f"elsewhere {subject}") * len(others))]
    return reply.replace(f"`{subject}`", f"`{owner}{dot}{other}`", 1)


def _place(subject: str, kind: str) -> str:
    """Where the subject lives."""
    owner, _, _ = subject.rpartition(".")
    article = "an" if kind == "exception" else "a"
    if kind == "module":
        return "It is a module of the standard library."
    if not owner:
        return f"It is {article} {kind} that is built into Python."
    if kind == "method":
        return f"It is a method of the `{owner}` class."
    return f"It is {article} {kind} in the `{owner}` module."


def sentence(text: str) -> str | None:
    """The first sentence of a docstring without its full stop, if it is clean English of a fitting length."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    whole = re.split(r"(?<=[\w)'\"`][.!?])\s+(?=[A-Z`'\"(])", paragraph)[0]
    if whole.endswith((":", "?", ",", ";")) or re.search(r"\b(e\.g|i\.e|etc)\.?$", whole):
        return None
    whole = whole.rstrip(".!").strip()
    if not FEWEST <= len(whole.split()) <= MOST or _UNCLEAN.search(whole) or not whole.isascii():
        return None
    balanced = all(whole.count(a) == whole.count(b) for a, b in ("()", "[]")) and whole.count('"') % 2 == 0
    dangling = whole.split()[-1].lower() in ("a", "an", "the", "of", "and", "or", "to", "is", "with")
    return whole if balanced and whole.count("`") % 2 == 0 and not dangling else None


def predicate(first: str) -> str | None:
    """What to say after the name: the sentence with its verb in the third person. None if unclear."""
    first = re.sub(
        r"^(This|The) (function|method|class|module|exception|object|routine|decorator) (?=[a-z]+s )",
        "",
        first,
    )
    first = re.sub(r"^This is (?=an? |the )", "", first)
    word, _, rest = first.partition(" ")
    lower = word.lower()
    if not rest or (word.isupper() and len(word) > 1):
        return None
    if lower in ADVERBS:
        following = predicate(rest[0].upper() + rest[1:])
        return f"{lower} {following}" if following and rest.split()[0].lower() in IMPERATIVE else None
    if lower in ("handle", "map", "list", "file", "hash", "test", "process") and rest.startswith(
        ("to ", "of ", "for ")
    ):
        return f"is a {lower} {rest}"
    if lower in IMPERATIVE:
        return f"{third(lower)} {_coordinate(rest)}"
    if lower in ("a", "an", "the"):
        return f"is {lower} {rest}"
    if lower in ("raised", "called", "used"):
        return f"is {lower} {rest}"
    if lower == "number" and rest.startswith("of "):
        return f"is the number {rest}"
    if lower == "whether":
        return f"tells whether {rest}"
    if lower == "same" and rest.startswith("as "):
        return f"is the same as {rest[3:]}"
    if lower in NOUNS:
        return f"is {'an' if lower[0] in 'aeiou' else 'a'} {lower} {rest}"
    if lower in _THIRD:
        return f"{lower} {rest}"
    return None


def third(verb: str) -> str:
    """The third person of a verb: joins, tries, matches."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if re.search(r"[^aeiou]y$", verb):
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else f"{verb}s"


_THIRD = frozenset(third(verb) for verb in IMPERATIVE)


def _coordinate(rest: str) -> str:
    """Second commands in the third person: "the lock and return it" becomes "the lock and returns it"."""

    def turn(match: re.Match[str]) -> str:
        before = f" {rest[: match.start()]} "
        known = IMPERATIVE if match.start() == 0 else SECOND  # "read or write it": surely both are commands
        if match["verb"] not in known or _LOOSE.search(before):
            return match[0]
        return f"{match['link']}{third(match['verb'])}"

    return re.sub(r"(?P<link>(?:^|\b)(?:and|or|then|and then|but) )(?P<verb>[a-z]+)\b(?! of)", turn, rest)
