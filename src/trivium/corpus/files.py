"""A user's own files: plain text and JSON lines. What is wrong with them is said with file, line and fix."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from trivium.corpus.records import Item, Messages, Record, key_of
from trivium.errors import DataError
from trivium.files import sha256
from trivium.types import Emit

ROLES = ("system", "user", "assistant")
_COLUMNS = {
    "documents": "`text`",
    "conversations": "`messages`, or `prompt` and `completion`",
    "preferences": "`prompt`, `chosen` and `rejected`",
    "feedback": "`prompt`, `completion` and `label`",
}


JSONL = (".jsonl", ".ndjson", ".json")
"""Endings of the files that a jsonl source reads in a folder."""


class BadLine(ValueError):
    """A line that is skipped: malformed, up to the source's limit."""


def find(path: str, folder: Path, endings: tuple[str, ...] = ()) -> list[Path]:
    """The files that `path` means: a file, a folder (read recursively) or a glob, by name.

    `endings` chooses among a folder's files. DataError if there are none.
    """
    whole = folder / path
    if whole.is_file():
        return [whole]
    if whole.is_dir():
        inside = (one for one in whole.rglob("*") if one.is_file() and not one.name.startswith("."))
        found = sorted(one for one in inside if not endings or one.suffix in endings)
    else:
        named = glob.glob(str(whole), recursive=True)  # noqa: PTH207 - the pattern may be an absolute path
        found = sorted(Path(name) for name in named if Path(name).is_file())
    if not found:
        ending = f" ending in {' or '.join(endings)}" if endings and whole.is_dir() else ""
        raise DataError(
            f"no such file: {path}" if not whole.is_dir() else f"no file{ending} in the folder {path}",
            where=str(whole),
            fix="correct the source's `path`; it is relative to the recipe's folder and may be a file, "
            "a folder or a glob",
        )
    return found


def checksums(path: str, folder: Path, endings: tuple[str, ...] = ()) -> dict[str, str]:
    """File (relative to the recipe where it can be) -> SHA-256, of all that a source reads."""
    return {_relative(file, folder): sha256(file) for file in find(path, folder, endings)}


def _relative(file: Path, folder: Path) -> str:
    return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()


def texts(path: str, folder: Path) -> Iterator[Item]:
    """One document per file. DataError for a file that is empty or not UTF-8."""
    for file in find(path, folder):
        text = _decode(file)
        if not text.strip():
            raise _empty(file)
        yield Item({"key": key_of(text), "text": text, "origin": str(file.name)}, sayings=(text,))


def jsonl(
    path: str, folder: Path, format: str, max_bad_lines: int, emit: Emit, dropped: Counter[str]
) -> Iterator[Item]:
    """One item per line. Malformed lines are reported, counted as `malformed` and skipped up to
    `max_bad_lines`.

    DataError past that limit, and at once for a file that is empty or not UTF-8.
    """
    rows = (row for file in find(path, folder, JSONL) for row in lines(file))
    yield from checked(rows, format, max_bad_lines, emit, dropped)


def lines(file: Path) -> Iterator[tuple[str, Callable[[], Record]]]:
    """(file:line, what reads it) of every line that is not blank. DataError for a file that is empty or not UTF-8."""
    text = _decode(file)
    if not text.strip():
        raise _empty(file)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{file}:{number}", partial(_parse, line)


def checked(
    rows: Iterable[tuple[str, Callable[[], Record]]],
    format: str,
    max_bad_lines: int,
    emit: Emit,
    dropped: Counter[str],
) -> Iterator[Item]:
    """Items of rows; see `jsonl` for what becomes of those that are malformed."""
    for where, parse in rows:
        try:
            item = _item(parse(), format)
        except BadLine as error:
            dropped["malformed"] += 1
            emit({"event": "bad_line", "where": where, "what": str(error)})
            if dropped["malformed"] > max_bad_lines:
                raise DataError(
                    f"{dropped['malformed']} malformed lines, more than the {max_bad_lines} allowed; "
                    f"the last: {error}",
                    where=where,
                    fix=f"a line is one JSON object with {_COLUMNS[format]}; mend the lines or raise "
                    "the source's `max_bad_lines`",
                ) from None
            continue
        yield item


def _decode(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}",
            where=str(file),
            fix="convert the file to UTF-8 (`iconv -f LATIN1 -t UTF-8 old > new`, if it is Latin-1)",
        ) from None
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror}", where=str(file), fix="check its permissions"
        ) from None


def _empty(file: Path) -> DataError:
    return DataError("the file is empty", where=str(file), fix="give it content, or leave it out of `path`")


def _parse(line: str) -> Record:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadLine(f"no JSON: {error}") from None
    except RecursionError:
        raise BadLine("no JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise BadLine(f"not an object but {type(value).__name__}")
    return value


def _item(line: Record, format: str) -> Item:
    if format == "documents":
        text = _string(line, "text")
        return Item({"key": key_of(text), "text": text}, sayings=(text,))
    if format == "conversations":
        turns = _messages(line["messages"], "messages") if "messages" in line else _pair(line)
        if not any(turn["role"] == "assistant" for turn in turns):
            raise BadLine("`messages` holds no assistant turn, so there is nothing to learn")
        key = _prompt_key(turns)
        return Item({"key": key, "messages": turns, "meta": {}}, sayings=_contents(turns))
    if format == "feedback":
        return _feedback(line)
    prompt = _implied_prompt(line) if "prompt" not in line else _prompt(line)
    chosen, rejected = (_reply(line, name, prompt) for name in ("chosen", "rejected"))
    if chosen.strip() == rejected.strip():
        raise BadLine("`chosen` and `rejected` are equal, so the pair prefers nothing")
    record = {
        "key": _prompt_key(prompt),
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "meta": {},
    }
    return Item(record, sayings=(*_contents(prompt), chosen))


def _feedback(line: Record) -> Item:
    prompt = _prompt(line)
    completion = _reply(line, "completion", prompt)
    label = line.get("label")
    if not isinstance(label, bool | int) or label not in (0, 1):
        raise BadLine(f"`label` is {label!r:.40}; it must be true or false, 1 or 0")
    record = {
        "key": _prompt_key(prompt),
        "prompt": prompt,
        "completion": completion,
        "label": int(label),
        "meta": {},
    }
    return Item(record, sayings=(*_contents(prompt), completion))


def _implied_prompt(line: Record) -> Messages:
    """The prompt of a pair of whole conversations: what both hold before the last turn."""
    if not all(isinstance(line.get(name), list) for name in ("chosen", "rejected")):
        return _prompt(line)
    chosen, rejected = (_messages(line[name], name) for name in ("chosen", "rejected"))
    place = next(
        (i for i, (a, b) in enumerate(zip(chosen[:-1], rejected[:-1], strict=False)) if a != b),
        None if len(chosen) == len(rejected) else min(len(chosen), len(rejected)) - 1,
    )
    if place is not None:
        raise BadLine(f"the prompts of `chosen` and `rejected` differ, first in turn {place + 1}")
    if len(chosen) < 2:
        raise BadLine("`chosen` and `rejected` hold a reply and no prompt")
    return chosen[:-1]


def _contents(turns: Messages) -> tuple[str, ...]:
    return tuple(turn["content"] for turn in turns)


def _prompt_key(turns: Messages) -> str:
    """The identity of a conversation is what was asked: all replies to it stay on one side of the split."""
    asked = []
    for turn in turns:
        if turn["role"] == "assistant":
            break
        asked.append(turn["content"])
    return key_of("\n".join(asked))


def _string(line: Record, name: str) -> str:
    if name not in line:
        raise BadLine(f"no `{name}`; it has {', '.join(map(repr, line)) or 'no columns'}")
    value = line[name]
    if not isinstance(value, str):
        raise BadLine(f"`{name}` is not a string but {type(value).__name__}")
    if not value.strip():
        raise BadLine(f"`{name}` is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadLine(f"`{name}` holds half a surrogate pair, which is no text") from None
    return value


def _messages(value: Any, name: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise BadLine(f"`{name}` is not a list of turns")
    turns = []
    for place, turn in enumerate(value):
        if not isinstance(turn, dict):
            raise BadLine(f"`{name}[{place}]` is not an object with `role` and `content`")
        role = _string(turn, "role")
        if role not in ROLES:
            raise BadLine(f"`{name}[{place}]` has the unknown role {role!r}; known: {', '.join(ROLES)}")
        turns.append({"role": role, "content": _string(turn, "content")})
    return turns


def _pair(line: Record) -> Messages:
    return [*_prompt(line), {"role": "assistant", "content": _reply(line, "completion", [])}]


def _prompt(line: Record) -> Messages:
    if isinstance(line.get("prompt"), list):
        return _messages(line["prompt"], "prompt")
    return [{"role": "user", "content": _string(line, "prompt")}]


def _reply(line: Record, name: str, prompt: Messages) -> str:
    """A reply as a string or as messages: its own turn, or a conversation that starts with the prompt."""
    if not isinstance(line.get(name), list):
        return _string(line, name)
    turns = _messages(line[name], name)
    own = turns[len(prompt) :] if turns[: len(prompt)] == prompt else turns
    if own is turns and len(turns) > 1 and turns[-1]["role"] == "assistant":
        raise BadLine(f"`{name}` begins with another prompt than the row's own")
    if len(own) != 1 or own[0]["role"] != "assistant":
        raise BadLine(f"`{name}` is not one assistant turn after the prompt")
    return own[0]["content"]
