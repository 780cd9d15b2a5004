"""Replies of a server that speaks OpenAI's protocol as they are written, for somebody who reads them."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from trivium.errors import DataError
from trivium.generate.connect import checked, headers, reason

TIMEOUT = 600.0
"""Seconds without a word of the server."""


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """httpx's own also cuts at U+2028 and the like, which stand in replies."""
    held = b""
    for piece in pieces:
        *whole, held = (held + piece).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole)
    yield held.decode("utf-8", "replace")


class Streaming:
    """A server at `url` (with or without `/v1`). `model` None takes the first that it lists; `key`: an environment variable.

    DataError for an address that is none, a server that cannot be reached or refuses, a variable that is not set.
    """

    def __init__(self, url: str, model: str | None = None, key: str | None = None) -> None:
        checked(url)
        self.url = url.rstrip("/") if url.rstrip("/").endswith("/v1") else url.rstrip("/") + "/v1"
        self._client = httpx.Client(headers=headers(key, self.url), timeout=TIMEOUT)
        weakref.finalize(self, self._client.close)
        self.model = model or self._first()

    def _first(self) -> str:
        with self._open("models", None) as response:
            try:
                return str(json.loads(response.read())["data"][0]["id"])
            except (ValueError, LookupError, TypeError):
                raise DataError(
                    "the server lists no models", where=self.url, fix="name one: --model NAME"
                ) from None

    def chat(self, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]) -> Iterator[str]:
        """The assistant's reply, piece by piece. Left early, the connection is closed, which stops the server."""
        body = {"model": self.model, "messages": list(messages), "stream": True, **settings}
        with self._open("chat/completions", body) as response:
            for line in _lines(response.iter_bytes()):
                if not line.startswith("data:") or not (data := line[5:].strip()) or data == "[DONE]":
                    continue
                yield from self._piece(data)

    def _piece(self, data: str) -> Iterator[str]:
        try:
            event = json.loads(data)
            if "error" in event:
                raise DataError(f"the server stopped: {event['error']['message']}", where=self.url)
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    yield str(text)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise DataError(f"the server sends what is no chunk: {data[:80]}", where=self.url) from None

    @contextmanager
    def _open(self, path: str, body: Mapping[str, Any] | None) -> Iterator[httpx.Response]:
        method = "GET" if body is None else "POST"
        try:
            with self._client.stream(method, f"{self.url}/{path}", json=body) as response:
                if not response.is_success:
                    raise DataError(
                        f"the server refuses ({response.status_code}): {reason(response.read())}",
                        where=self.url,
                    )
                yield response
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise DataError(
                f"the server cannot be reached: {error}", where=self.url, fix="is it running?"
            ) from None
