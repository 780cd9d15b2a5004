"""What this machine can do: rates of matrix products and of a small model's pass, measured once and kept beside the store."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trivium import files
from trivium.cores import cores, native_bf16
from trivium.model.config import ModelConfig
from trivium.plan.rates import Rates, moved

WIDTHS = {"cpu": (32, 128, 512, 1024, 2048), "cuda": (128, 1024, 4096, 8192)}
"""Of the square matrices that a pass's rows are multiplied with. The widest reach the peak of an idle machine; on a busy one,
others do, since a product that ends within a time slice is not interrupted (measured at a load of six a core: 1,407 GFLOP/s at
1,024 wide, 516 at 2,048)."""
PASS = {"cpu": (8, 256, 256), "cuda": (4, 2048, 2048)}
"""Rows, their tokens, and the width of the model whose pass is measured."""
SECONDS = 0.1
"""For each of these."""


def rates(
    precision: str = "auto",
    device: str = "auto",
    cache: Path | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Rates:
    """What `device` (cpu, cuda, auto: a GPU if any) reaches in `precision` (bf16, float32, float8 on a GPU, auto: what a run
    takes there), found in about a second.

    `cache`: a JSON file (`machine.json` in the store) that keeps the best of the same hardware and torch; `tell` hears that
    something is measured before it is.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "bf16" if native_bf16(device) else "float32"
    threads = f"{platform.machine()} x{torch.get_num_threads()}"
    name = torch.cuda.get_device_name() if device == "cuda" else threads
    key = f"{name}, {precision}, torch {version('torch')}, {os.cpu_count()} cores"
    if key not in _measured:
        tell(f"measuring products and a small pass ({precision}), about a second")
        known = _read(cache)
        # a busy machine only ever looks slower, so the best that was ever seen is what it reaches
        _measured[key] = known[key] = _best(_benchmark(precision, device), known.get(key))
        if cache is not None:
            files.write_json(cache, {one: vars(found) for one, found in known.items()})
    return _measured[key]


def known_rates(cache: Path) -> Rates | None:
    """What `rates` kept in `cache` on a machine of as many cores, the fastest; None where it has measured nothing. Needs no
    torch."""
    here = f"{os.cpu_count()} cores"
    kept = [found for key, found in _read(cache).items() if key.endswith(here)]
    return max(kept, key=lambda found: found.peak, default=None)


def machine_name() -> str:
    """What lessons of one machine go by: processor, cores, and whether there is a GPU of NVIDIA's. Needs no torch."""
    gpu = ", cuda" if Path("/dev/nvidia0").exists() else ""
    return f"{platform.machine()} x{cores()}{gpu}"


_measured: dict[str, Rates] = {}
"""What this process has measured: once is enough."""


def _best(found: Rates, earlier: Rates | None) -> Rates:
    if earlier is None:
        return found
    products = {width: max(rate, earlier.products.get(width, 0.0)) for width, rate in found.products.items()}
    return Rates(products, max(found.numbers, earlier.numbers))


def _read(cache: Path | None) -> dict[str, Rates]:
    """What `cache` holds, without what is missing, damaged or of another version: that is measured again."""
    try:
        known = json.loads(cache.read_text(encoding="utf-8")) if cache else {}
    except (OSError, ValueError):
        return {}
    found = {key: _as_rates(kept) for key, kept in known.items()} if isinstance(known, dict) else {}
    return {key: one for key, one in found.items() if one is not None}


def _as_rates(kept: Any) -> Rates | None:
    try:
        products = {int(width): float(rate) for width, rate in kept["products"].items()}
        numbers = float(kept["numbers"])
    except (TypeError, KeyError, AttributeError, ValueError):
        return None
    return Rates(products, numbers) if products and min(*products.values(), numbers) > 0 else None


def _benchmark(precision: str, device: str) -> Rates:
    rows, context, _ = PASS[device]
    products = {width: _product(precision, device, rows * context, width) for width in WIDTHS[device]}
    return Rates(products, _numbers(precision, device, products))


def _product(precision: str, device: str, rows: int, width: int) -> float:
    """FLOP/s of products of (rows, width) and (width, width)."""
    import torch

    dtypes = {"bf16": torch.bfloat16, "float32": torch.float32, "float8": torch.float8_e4m3fn}
    dtype = dtypes[precision]
    left, right = (torch.ones(height, width, device=device).to(dtype) for height in (rows, width))
    scale = torch.ones((), device=device)

    def product() -> None:
        if precision == "float8":  # by columns on the right, as its kernels want it
            torch._scaled_mm(left, right.t(), scale, scale, out_dtype=torch.bfloat16, use_fast_accum=True)
        else:
            torch.mm(left, right)

    return 2 * rows * width**2 / _fastest(product, device)


def _numbers(precision: str, device: str, products: dict[int, float]) -> float:
    """Numbers a second that a small model's training pass moves, in the time that it takes beside its products."""
    import torch

    from trivium.model.transformer import Transformer

    rows, context, dim = PASS[device]
    config = ModelConfig(
        vocab_size=dim,
        dim=dim,
        hidden=8 * dim // 3,
        context=context,
        layers=2,
        heads=4,
        kv_heads=4,
        head_dim=dim // 4,
    )
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    model.to(device)
    weights = list(model.parameters())
    places = torch.arange(context, device=device).expand(rows, -1)
    batch: Any = {"tokens": places % dim, "targets": places % dim, "positions": places}
    batch["doc_id"] = torch.zeros_like(places)

    def there_and_back() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision != "float32"):
            logp = model(batch, {"logp"}).logp
        torch.autograd.grad(logp.sum(), weights)

    seconds = _fastest(there_and_back, device) / (rows * context)
    alone = Rates(products, float("inf")).seconds(config, context, 3)
    return 3 * moved(config, context) / max(seconds - alone, seconds / 10)


def _fastest(run: Callable[[], None], device: str) -> float:
    """Seconds of the fastest of many runs."""
    import torch

    def once() -> float:
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()  # warm up: kernels are chosen and memory is taken
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        best = min(best, once())
    return best
