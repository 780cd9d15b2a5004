"""Ranks that are started again under torchrun, whose store still holds what those before them left."""

from __future__ import annotations

from datetime import timedelta

from forked import Forked
from torch.distributed import TCPStore

RANK = """
import os
import torch
from trivium.train import distributed
distributed.start({"data": 2}, "cpu", timeout_s=300)
total = torch.ones(())
torch.distributed.all_reduce(total)
print(int(total), flush=True)
os._exit(0)  # as one that is killed: nothing is tidied up
"""


def test_ranks_that_start_again_do_not_look_for_those_before_them():
    store = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=300), wait_for_workers=False)
    for attempt in range(2):
        for process in [rank(number, attempt, store.port) for number in range(2)]:
            said, error = process.communicate()
            assert said == "2\n", error


def rank(number: int, attempt: int, port: int) -> Forked:
    environment = {
        "RANK": str(number),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
    }
    return Forked(RANK, env=environment)
