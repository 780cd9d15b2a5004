"""Replies of a server that speaks OpenAI's protocol as they are written, for somebody who reads them."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trivium.errors import DataError
from trivium.generate.connect import headers, opener

TIMEOUT = 600.0
"""Seconds without a word of the server."""


class Streaming:
    """A server at `url` (with or without `/v1`). `model` None takes the first that it lists; `key`: an environment variable.

    DataError for an address that is none, a server that cannot be reached or refuses, a variable that is not set.
    """

    def __init__(self, url: str, model: str | None = None, key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise DataError(f"no http or https address: {url}", fix="--url http://127.0.0.1:8000")
        self.url = url.rstrip("/") if url.rstrip("/").endswith("/v1") else url.rstrip("/") + "/v1"
        self.headers, self._opener = headers(key, self.url), opener()
        self.model = model or self._first()

    def _first(self) -> str:
        with self._open("models", None) as response:
            try:
                return str(json.load(response)["data"][0]["id"])
            except (ValueError, LookupError, TypeError):
                raise DataError(
                    "the server lists no models", where=self.url, fix="name one: --model NAME"
                ) from None

    def chat(self, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]) -> Iterator[str]:
        """The assistant's reply, piece by piece. Left early, the connection is closed, which stops the server."""
        body = {"model": self.model, "messages": list(messages), "stream": True, **settings}
        with self._open("chat/completions", body) as response:
            for line in response:
                if not line.startswith(b"data:") or not (data := line[5:].strip()) or data == b"[DONE]":
                    continue
                yield from self._piece(data)

    def _piece(self, data: bytes) -> Iterator[str]:
        try:
            event = json.loads(data)
            if "error" in event:
                raise DataError(f"the server stopped: {event['error']['message']}", where=self.url)
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    yield str(text)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise DataError(f"the server sends what is no chunk: {data[:80]!r}", where=self.url) from None

    def _open(self, path: str, body: Mapping[str, Any] | None) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, self.headers)
        try:
            response: http.client.HTTPResponse = self._opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(2000).decode(errors="replace")
            try:
                said = json.loads(said)["error"]["message"]
            except (ValueError, LookupError, TypeError):
                said = said[:200]
            raise DataError(f"the server refuses ({error.code}): {said}", where=self.url) from None
        except (OSError, http.client.HTTPException) as error:
            raise DataError(
                f"the server cannot be reached: {error}", where=self.url, fix="is it running?"
            ) from None
        return response
