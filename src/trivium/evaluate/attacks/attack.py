"""What an attack is: a request in other clothes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trivium.evaluate.attacks.requests import Request
from trivium.text.chat import Message


class Attempt(NamedTuple):
    """What is put to the model: a conversation, and how its reply is made to begin."""

    messages: tuple[Message, ...]
    prefill: str = ""


def user(text: str) -> Attempt:
    return Attempt(({"role": "user", "content": text},))


def as_it_is(reply: str) -> str:
    return reply


class Attack(NamedTuple):
    make: Callable[[Request], Attempt]
    reads: Callable[[str], str] = as_it_is
    """How a reply in the attack's own code is read."""
