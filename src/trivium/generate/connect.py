"""How a request of ours is sent: with a key from the environment, and to nobody else. No torch."""

from __future__ import annotations

import json
import os

import httpx

from trivium.errors import DataError


def checked(url: str) -> str:
    """An address of a server; DataError where it is none."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host.strip("%5B"):
        raise DataError(f"no http or https address: {url}", fix="write it as http://host:port/v1")
    return url


def headers(key: str | None, url: str) -> dict[str, str]:
    """Of a request; `key`: the environment variable with the API key. DataError if it is not set."""
    lines = {"Content-Type": "application/json"}
    if key is not None:
        if not (secret := os.environ.get(key)):
            raise DataError(
                f"the environment variable {key} is not set",
                where=url,
                fix=f"export {key}=... with the server's API key",
            )
        lines["Authorization"] = f"Bearer {secret}"
    return lines


def reason(body: bytes) -> str:
    """What a server says of a request that it refuses: OpenAI's `error.message`, else how the body begins."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return body[:200].decode(errors="replace")
