"""How a request of ours is sent: with a key from the environment, and to nobody else. No torch."""

from __future__ import annotations

import os
import urllib.request
from typing import Any

from trivium.errors import DataError


def opener() -> urllib.request.OpenerDirector:
    """Opens addresses, and follows no redirect."""
    return urllib.request.build_opener(_NoRedirect)


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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *arguments: Any) -> None:
        return None
