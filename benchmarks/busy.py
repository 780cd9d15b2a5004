"""Training beside other work: how much of its fair share of the processor a run keeps.

    python benchmarks/busy.py --seconds 20

The same training loop (eager, the quickstart's model and batch) runs alone and beside one and two processes that compute
without end, with OpenMP's threads waiting as they do by default, asleep, and asleep after a short spin, which is what
`trivium` sets. With n threads of ours on n cores and m others, the fair share is n / (n + m) of the speed alone. Threads
that wait by spinning use up the time that the one they wait for would need; then a run falls far below it. Each measurement
is a process of its own and the settings take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from trivium.cores import WAITING, cores

SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "short spin": WAITING,
}
GOAL = 0.7
"""Of the fair share, at least."""


def steps_per_second(seconds: float) -> float:
    """Optimizer steps a second of a small transformer, after a warm-up of three."""
    import torch

    from trivium.model.config import ModelConfig
    from trivium.model.transformer import Transformer

    shape = ModelConfig(
        vocab_size=2048, dim=160, layers=5, heads=5, kv_heads=5, head_dim=32, hidden=448, context=256
    )
    model = Transformer(shape)
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(2048, (8, 257), generator=torch.Generator().manual_seed(1))
    batch = {
        "tokens": tokens[:, :-1], "targets": tokens[:, 1:], "loss_mask": torch.ones(8, 256),
        "doc_id": torch.zeros(8, 256, dtype=torch.long), "positions": torch.arange(256).repeat(8, 1),
    }  # fmt: skip
    count, started = -3, time.perf_counter()
    while count < 1 or time.perf_counter() - started < seconds:
        if count == 0:
            started = time.perf_counter()
        loss = -model(batch, frozenset({"logp"})).logp.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        count += 1
    return count / (time.perf_counter() - started)


def measure(setting: str, others: int, seconds: float) -> float:
    """Steps a second in a process of its own beside `others` that compute without end."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    try:
        command = [sys.executable, __file__, "--here", "--seconds", str(seconds)]
        kept = {name: value for name, value in os.environ.items() if name not in WAITING}
        environment = {**kept, **SETTINGS[setting], "OMP_NUM_THREADS": str(cores())}  # as `trivium` has them
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return float(json.loads(done.stdout))
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(steps_per_second(options.seconds)))
        return
    threads = cores()
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.turns):
        for others in (0, 1, 2):
            for setting in SETTINGS:
                rates.setdefault((setting, others), []).append(measure(setting, others, options.seconds))
    best = max(statistics.median(rates[setting, 0]) for setting in SETTINGS)
    print(
        f"{threads} threads; load {', '.join(f'{x:.2f}' for x in os.getloadavg())}; median of {options.turns}"
    )
    print(
        "| waiting | others | steps/s | of the best alone | of the fair share | turns |\n|---|---|---|---|---|---|"
    )
    for (setting, others), several in rates.items():
        rate = statistics.median(several)
        share = rate / best / (threads / (threads + others))
        missed = "" if share >= GOAL else " (goal missed)"
        turns = ", ".join(f"{x:.2f}" for x in several)
        print(f"| {setting} | {others} | {rate:.2f} | {rate / best:.2f} | {share:.2f}{missed} | {turns} |")


if __name__ == "__main__":
    main()
