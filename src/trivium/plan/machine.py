"""What this machine can do: the measured peak of matrix products, kept beside the store."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from trivium import files
from trivium.cores import cores

SIZES = {"cpu": (512, 768, 1024, 2048), "cuda": (4096, 8192)}
"""Widths of the square matrices. Large ones reach the peak of an idle machine; on a busy one, small ones do, since a product that
ends within a time slice is not interrupted (measured at a load of six a core: 1,407 GFLOP/s at 1,024 wide, 516 at 2,048)."""
SECONDS = 0.2
"""For each width."""
USABLE = 2.0
"""A processor's bf16 peak counts in plans up to so many times its float32 peak: what a step does beside products is in float32.
AMX multiplies five times as fast as AVX-512 in float32, and trains small models 2.1 times as fast (docs/benchmarks.md)."""


def measured_peak(
    precision: str = "auto",
    device: str = "auto",
    cache: Path | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> float:
    """FLOP/s of the best square matrix product found in about a second, in `precision` on `device`.

    precision: bf16, float32, float8 (on a GPU), or auto for what plans count with: the faster of the first two, on a processor
    `USABLE` times the second at most;
    device: cpu, cuda, or auto for a GPU if any.
    `cache`: a JSON file (`machine.json` in the store) that keeps the best result of the same hardware and torch; `tell` hears
    that something is measured before it is.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()} x{torch.get_num_threads()}"
    )
    key = f"{name}, {precision}, torch {version('torch')}, {os.cpu_count()} cores"
    if key not in _measured:
        wanted = ("bf16", "float32") if precision == "auto" else (precision,)
        tell(f"measuring the peak of matrix products ({', '.join(wanted)}), about a second each")
        # a busy machine only ever looks slower, so the best that was ever seen is the peak
        known = _read(cache)
        found = max(rates := [_benchmark(one, device) for one in wanted])
        if device == "cpu" and precision == "auto":
            found = min(found, USABLE * rates[-1])
        _measured[key] = known[key] = max(known.get(key, 0.0), found)
        if cache is not None:
            files.write_json(cache, known)
    return _measured[key]


def known_peak(cache: Path) -> float | None:
    """The peak that plans count with, as `measured_peak` kept it in `cache` on a machine of as many cores; otherwise the highest
    that it kept; None where it has measured nothing. Needs no torch."""
    here = f"{os.cpu_count()} cores"
    known = {key: peak for key, peak in _read(cache).items() if key.endswith(here)}
    return max(
        (peak for key, peak in known.items() if ", auto, " in key), default=max(known.values(), default=None)
    )


def machine_name() -> str:
    """What lessons of one machine go by: processor, cores, and whether there is a GPU of NVIDIA's. Needs no torch."""
    gpu = ", cuda" if Path("/dev/nvidia0").exists() else ""
    return f"{platform.machine()} x{cores()}{gpu}"


_measured: dict[str, float] = {}
"""What this process has measured: once is enough."""


def _read(cache: Path | None) -> dict[str, float]:
    try:
        known = json.loads(cache.read_text(encoding="utf-8")) if cache else {}
    except (OSError, ValueError):  # missing or damaged: measured again
        return {}
    return (
        {str(k): float(v) for k, v in known.items() if isinstance(v, int | float)}
        if isinstance(known, dict)
        else {}
    )


def _benchmark(precision: str, device: str) -> float:
    return max(_products(precision, device, size) for size in SIZES[device])


def _products(precision: str, device: str, size: int) -> float:
    """FLOP/s of the fastest of many products."""
    import torch

    dtypes = {"bf16": torch.bfloat16, "float32": torch.float32, "float8": torch.float8_e4m3fn}
    dtype = dtypes[precision]
    left, right = (torch.ones(size, size, device=device).to(dtype) for _ in range(2))
    scale = torch.ones((), device=device)

    def product() -> None:
        if precision == "float8":  # by columns on the right, as its kernels want it
            torch._scaled_mm(left, right.t(), scale, scale, out_dtype=torch.bfloat16, use_fast_accum=True)
        else:
            torch.mm(left, right)

    def once() -> float:
        started = time.perf_counter()
        product()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()  # warm up: kernels are chosen and memory is taken
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        best = min(best, once())
    return 2 * size**3 / best
