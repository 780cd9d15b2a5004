"""How many processor cores this process may use, which is not how many the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")

WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""How OpenMP's threads (GNU's, LLVM's) wait for each other: a short spin, then asleep. By default they spin for milliseconds,
on time that the thread they wait for may need where the machine has other work (`benchmarks/busy.py` measures it)."""


def wait_asleep() -> None:
    """Sets WAITING for this process and those it starts. Call before torch is loaded; what the user has set stands."""
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)


def cores(root: Path = CGROUPS) -> int:
    """Cores that this process may keep busy: those that it may run on, or as many as its control group's quota pays for.

    A container that is limited to half a machine still sees all of it; a thread for each core seen would be stopped half of
    the time, and all others would wait for it. At least 1. `root`: where control groups are mounted.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(root: Path) -> float | None:
    """Cores that the tightest control group around this process grants; None where nothing limits them."""
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return None
    granted = []
    for line in groups:
        number, controllers, place = line.split(":", 2)
        if number == "0":  # version 2: one tree
            base, read = root, _unified
        elif "cpu" in controllers.split(","):  # version 1
            base, read = root / "cpu", _divided
        else:
            continue
        here = base / place.lstrip("/")
        # a container sees its own group as the root of the tree, under whatever name /proc says
        for folder in {base, here, *(parent for parent in here.parents if parent.is_relative_to(base))}:
            if (cores := read(folder)) is not None:
                granted.append(cores)
    return min(granted, default=None)


def _unified(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _divided(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if quota <= 0 else quota / period
