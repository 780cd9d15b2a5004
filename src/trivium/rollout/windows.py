"""Times of the week in which something may be promoted: `mon-fri 09:00-16:00 Europe/Berlin`. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM = re.compile(
    r"(?:(?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))? )?(?P<from>\d\d:\d\d)-(?P<to>\d\d:\d\d)(?: (?P<zone>\S+))?"
)


class Window(NamedTuple):
    days: frozenset[int]
    """Of the week, from Monday, 0; of a window that goes past midnight the days on which it begins."""
    begin: int
    """Minutes from midnight."""
    end: int
    """The first minute that is outside."""
    zone: ZoneInfo

    def holds(self, at: datetime) -> bool:
        here = at.astimezone(self.zone)
        minute, before = here.hour * 60 + here.minute, here - timedelta(days=1)
        if self.begin < self.end:
            return here.weekday() in self.days and self.begin <= minute < self.end
        late, early = minute >= self.begin, minute < self.end
        return (late and here.weekday() in self.days) or (early and before.weekday() in self.days)


def window(text: str) -> Window:
    """ValueError, with what is wrong, for a text that is no window. Without days: every day; without a zone: UTC."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no time of the week such as 'mon-fri 09:00-16:00 Europe/Berlin'")
    first, last = found["first"] or "mon", found["last"] or found["first"] or "sun"
    unknown = [day for day in (first, last) if day not in DAYS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no day: {', '.join(DAYS)}")
    a, b = DAYS.index(first), DAYS.index(last)
    days = frozenset((a + n) % 7 for n in range((b - a) % 7 + 1))
    begin, end = _minutes(found["from"]), _minutes(found["to"])
    if begin == end:
        raise ValueError(f"{text!r} ends where it begins")
    try:
        zone = ZoneInfo(found["zone"] or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"there is no time zone {found['zone']!r}: names are such as Europe/Berlin"
        ) from None
    return Window(days, begin, end, zone)


def _minutes(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > 24 * 60:
        raise ValueError(f"{text} is no time of a day")
    return hours * 60 + minutes


def is_open(windows: Collection[str], at: datetime) -> bool:
    """Whether `at` (with a zone) lies in one of them; always, where there are none."""
    return not windows or any(window(text).holds(at) for text in windows)
