"""How many processor cores and how much memory this process may use, not what the machine has; and what these are fast at."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
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


def stolen(stat: Path = Path("/proc/stat")) -> tuple[int, int]:
    """(time that the processors of a virtual machine had to wait for others, time that they worked) since it started, in ticks;
    zeros where nobody counts it."""
    try:
        counted = stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
        user, nice, system, _, _, hard, soft, steal = map(int, counted)
    except (OSError, ValueError):
        return 0, 0
    return steal, user + nice + system + hard + soft


def most_held() -> int:
    """Most bytes that this process has held so far (by Linux's mark of its own memory: that of getrusage begins with what the
    process had that started this one)."""
    with suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split("kB")[0])
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory(root: Path = CGROUPS) -> int:
    """Bytes that this process may still take: what the machine has free, or what is left of its control group's limit.

    What the system only keeps because nobody else wants it counts as free. `root`: where control groups are mounted.
    """
    try:
        said = dict(
            line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        )
        free = int(said["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux: all that is built in
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    left = [bytes_ for folder, _ in _groups(root, "memory") if (bytes_ := _left(folder)) is not None]
    return max(0, min([free, *left]))


def take_ours() -> None:
    """Limits torch's threads to `cores()`: by itself it counts the processors that it sees. Where there are fewer they stay."""
    import torch

    if torch.get_num_threads() > (ours := cores()):
        torch.set_num_threads(ours)


def native_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 matrices faster than float32 ones."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _quota(root: Path) -> float | None:
    """Cores that the tightest control group around this process grants; None where nothing limits them."""
    read = {True: _unified, False: _divided}
    granted = [cores for folder, one in _groups(root, "cpu") if (cores := read[one](folder)) is not None]
    return min(granted, default=None)


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The folders of the control groups around this process, and whether they are of version 2, which has one tree for all."""
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in groups:
        number, controllers, place = line.split(":", 2)
        if number != "0" and controller not in controllers.split(","):
            continue
        base = root if number == "0" else root / controller
        here = base / place.lstrip("/")
        # a container sees its own group as the root of the tree, under whatever name /proc says
        for folder in {base, here, *(parent for parent in here.parents if parent.is_relative_to(base))}:
            yield folder, number == "0"


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


def _left(folder: Path) -> int | None:
    """Bytes that a control group may still take; None where it has no limit. Files that it has read and could drop are free."""
    for limit, used, dropped in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((folder / limit).read_text(encoding="utf-8"))
            taken = int((folder / used).read_text(encoding="utf-8"))
            stat = dict(
                line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
            )
        except (OSError, ValueError):  # "max", or the files of the other version
            continue
        return most - max(0, taken - int(stat.get(dropped, 0)))
    return None
