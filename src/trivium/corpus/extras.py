"""Libraries that come with an extra: a missing one is said with the command that installs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trivium.errors import TriviumError


@contextlib.contextmanager
def needed(extra: str, what: str) -> Iterator[None]:
    """Around an import. TriviumError, with the pip command, if `what` is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise TriviumError(
            f"{what} is not installed (no module named {error.name})",
            where=f"needed for the extra `{extra}`",
            fix=f'pip install "trivium[{extra}]"',
        ) from None
