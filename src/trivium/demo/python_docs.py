"""What ships inside every Python: docstrings, the language reference's topics, and the modules' sources.

Sources are parsed, never imported, so nothing with side effects runs; only a few modules written in C are
imported for their docstrings. Each docstring is an item of its own, and the sources come without them: the
split is by item.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from trivium.demo import explain
from trivium.demo.rows import Record, document
from trivium.keys import key_of

SKIPPED = frozenset(
    {"test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo", "this", "antigravity", "site-packages"}
    | {"ensurepip", "pydoc_data", "__phello__", "__hello__", "distutils", "encodings"}
)
"""Parts of the standard library that teach nothing: tests, demos, tables, what differs between machines."""
BUILT_IN = {
    "builtins": "",
    "array": "array",
    "binascii": "binascii",
    "cmath": "cmath",
    "collections": "collections",
    "functools": "functools",
    "gc": "gc",
    "io": "io",
    "itertools": "itertools",
    "math": "math",
    "operator": "operator",
    "os": "os",
    "re": "re",
    "select": "select",
    "socket": "socket",
    "struct": "struct",
    "sys": "sys",
    "time": "time",
    "unicodedata": "unicodedata",
    "zlib": "zlib",
}
"""Modules imported for the docstrings of what is written in C, and the prefix of their names."""
PIECE = 4000  # characters: the length at which sources and topics are cut


@dataclass(frozen=True)
class Doc:
    """One docstring."""

    subject: str  # os.path.join
    kind: str  # module, function, class, exception or method
    signature: str  # (a, *p), or empty
    text: str

    @property
    def key(self) -> str:
        return key_of(self.text)


def records(format: str, *, with_sources: bool = True, with_docstrings: bool = True) -> Iterator[Record]:
    """Records of the running Python, in an order that depends on its version alone."""
    if format != "documents":
        for doc in docstrings():
            yield from explain.records(format, doc.key, doc.subject, doc.kind, doc.text)
        return
    for doc in docstrings() if with_docstrings else ():
        text = f"{doc.subject}{doc.signature}\n\n{doc.text}"
        yield document(doc.key, text)
    for text in [*topics(), *(sources() if with_sources else ())]:
        yield document(key_of(text), text)


@cache
def docstrings() -> tuple[Doc, ...]:
    """Every public docstring: modules' sources first, by name, then what is written in C."""
    known: dict[str, Doc] = {}
    for name, path in modules():
        for doc in _parsed(name, path):
            known.setdefault(doc.subject, doc)
    for name, prefix in BUILT_IN.items():
        for doc in _imported(importlib.import_module(name), prefix):
            known.setdefault(doc.subject, doc)
    return tuple(known.values())


def topics() -> Iterator[str]:
    """The topics of `help()`: chapters of the language reference, cut at paragraphs."""
    from pydoc_data.topics import topics as found

    for name in sorted(found):
        yield from _join(found[name].strip().split("\n\n"), "\n\n")


def sources() -> Iterator[str]:
    """Modules without their docstrings, comments kept, cut into pieces at top-level definitions."""
    for _, path in modules(private=True):
        text = path.read_text(encoding="utf-8")
        tree = _parse(text)
        if tree is None:
            continue
        lines = text.splitlines()
        starts = sorted(
            {0}
            | {
                min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
                for node in tree.body
            }
        )
        removed = _docstring_lines(tree)
        blocks = []
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            kept = [lines[i].rstrip() for i in range(start, end) if i not in removed]
            blocks.append(re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).rstrip())
        for piece in _join(blocks, "\n"):
            if len(piece) > 100:
                yield piece


def modules(*, private: bool = False) -> Iterator[tuple[str, Path]]:
    """Modules of the standard library that are written in Python: (dotted name, file), by name.

    `private`: also those whose names begin with an underscore.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for top in sorted(sys.stdlib_module_names):
        file, folder = root / f"{top}.py", root / top
        paths = [file] if file.is_file() else sorted(folder.rglob("*.py")) if folder.is_dir() else []
        for path in paths:
            parts = path.relative_to(root).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            hidden = any(part.startswith("_") for part in parts)
            if (private or not hidden) and not _skipped(parts):
                found.append((".".join(parts), path))
    # os.path is one of these two, under a name that nobody writes.
    return ((re.sub(r"^(posixpath|ntpath)(?=\.|$)", "os.path", name), path) for name, path in sorted(found))


def _skipped(parts: tuple[str, ...]) -> bool:
    return any(part in SKIPPED or part.startswith("_sysconfigdata") for part in parts)


def _parse(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in sources that are not ours
        try:
            return ast.parse(text)
        except SyntaxError:
            return None


def _parsed(module: str, path: Path) -> Iterator[Doc]:
    tree = _parse(path.read_text(encoding="utf-8"))
    if tree is None:
        return
    if text := _clean(ast.get_docstring(tree)):
        yield Doc(module, "module", "", text)
    for node in tree.body:
        yield from _of_node(node, module, in_class=False)


def _of_node(node: ast.stmt, owner: str, *, in_class: bool) -> Iterator[Doc]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith(
        "_"
    ):
        return
    subject = f"{owner}.{node.name}"
    text = _clean(ast.get_docstring(node))
    if isinstance(node, ast.ClassDef):
        if text:
            yield Doc(subject, "exception" if _is_exception(node.name) else "class", "", text)
        for inner in node.body:
            yield from _of_node(inner, subject, in_class=True)
    elif text:
        yield Doc(subject, "method" if in_class else "function", f"({ast.unparse(node.args)})", text)


def _is_exception(name: str) -> bool:
    return name.endswith(("Error", "Exception", "Warning"))


def _imported(module: ModuleType, prefix: str) -> Iterator[Doc]:
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        subject = f"{prefix}.{name}" if prefix else name
        if inspect.isclass(value):
            kind = "exception" if issubclass(value, BaseException) else "class"
            if text := _clean(value.__doc__):
                yield Doc(subject, kind, "", text)
            for inner, member in sorted(vars(value).items()):
                if inspect.ismethoddescriptor(member) and not inner.startswith("_"):
                    yield from _of_routine(f"{subject}.{inner}", "method", member)
        elif inspect.isbuiltin(value):
            yield from _of_routine(subject, "function", value)


def _of_routine(subject: str, kind: str, value: object) -> Iterator[Doc]:
    signature = getattr(value, "__text_signature__", None) or ""
    signature = re.sub(r"\$\w+(, /)?(, )?", "", signature)  # what Python passes by itself
    if text := _clean(value.__doc__):
        yield Doc(subject, kind, signature, text)


def _clean(text: str | None) -> str:
    """A docstring without indentation and without the signature that C functions have as a first line."""
    text = inspect.cleandoc(text or "")
    first, _, rest = text.partition("\n")
    if re.match(r"^[\w.]+\(.*\)(\s*->.*)?$", first) and rest.strip():
        text = rest.strip()
    return text if len(text) >= 12 else ""


def _docstring_lines(tree: ast.Module) -> set[int]:
    """Zero-based numbers of the lines that docstrings stand on."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                found.update(range(first.lineno - 1, first.end_lineno or first.lineno))
    return found


def _join(blocks: list[str], mark: str) -> Iterator[str]:
    """Blocks joined to pieces of about PIECE characters; a longer block is cut at lines."""
    piece = ""
    for block in blocks:
        if piece and len(piece) + len(block) > PIECE:
            yield piece.strip("\n")
            piece = ""
        piece = f"{piece}{mark}{block}" if piece else block
        while len(piece) > 2 * PIECE:
            cut = piece.rfind("\n", 0, PIECE)
            cut = cut if cut > 0 else PIECE
            yield piece[:cut].strip("\n")
            piece = piece[cut:]
    if piece.strip():
        yield piece.strip("\n")
