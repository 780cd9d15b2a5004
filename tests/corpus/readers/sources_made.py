"""What the tests of sources are made of: records, archives, and a source opened on a folder."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from trivium.corpus.caps import Caps
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import Document, Setting, open_source
from trivium.recipe.models import SOURCE

MODELS: TypeAdapter[Any] = TypeAdapter(SOURCE)


def opened(
    folder: Path, *, caps: Caps | None = None, setting: dict[str, Any] | None = None, **block: Any
) -> Any:
    """A source of a recipe in `folder`."""
    return open_source(
        MODELS.validate_python(block), Setting(folder=folder, caps=caps or Caps(), **(setting or {}))
    )


def everything(source: Any, dead: DeadLetters | None = None) -> tuple[list[Document], list[dict[str, Any]]]:
    """(all documents, all dead letters) of all parts."""
    dead = DeadLetters() if dead is None else dead
    documents = [document for part in source.parts() for document in source.read(part, dead)]
    return documents, dead.rows()


def read(folder: Path, **block: Any) -> tuple[list[Document], list[dict[str, Any]]]:
    return everything(opened(folder, **block))


def kept(documents: list[Document]) -> list[str]:
    return [document["text"] for document in documents if document["reason"] is None]


def page(words: str) -> bytes:
    return f"<html><head><title>T</title></head><body><main><p>{words}</p></main></body></html>".encode()


def record(
    url: str,
    body: bytes,
    *,
    length: int | None = None,
    http: str = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n",
    type: str = "response",
) -> bytes:
    """A WARC record; `length`: the Content-Length it claims."""
    block = http.encode() + b"\r\n" + body if http else body
    head = (
        f"WARC/1.0\r\nWARC-Type: {type}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\n"
        f"Content-Type: {'application/http; msgtype=response' if http else 'text/plain'}\r\n"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def pages(count: int) -> list[bytes]:
    """Records of numbered pages, with a request between them as in a real crawl."""
    found = []
    for number in range(count):
        ask = record(f"https://x.test/{number}", b"GET / HTTP/1.1\r\n\r\n", http="", type="request")
        found += [ask, record(f"https://x.test/{number}", page(f"This is page number {number} of the site."))]
    return found


def zipped(records: list[bytes]) -> bytes:
    """As crawlers write them: one gzip member a record."""
    return b"".join(gzip.compress(one, mtime=0) for one in records)
