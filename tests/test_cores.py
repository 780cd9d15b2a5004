"""Threads for the cores that a process may use, not for those that the machine has."""

import os

import pytest

from trivium import cores


def tree(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def train(checkpoint):
    from trivium.recipe.training import PretrainStage
    from trivium.train import machine

    machine.resolve(PretrainStage.model_construct(device="cpu", precision="float32"))


def evaluate_or_serve(checkpoint):
    from trivium.model import hf

    hf.load(checkpoint())


@pytest.mark.parametrize("work", [train, evaluate_or_serve])
def test_torch_takes_no_more_threads_than_cores_are_ours(work, checkpoint, monkeypatch):
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(cores, "cores", lambda: 2)
        work(checkpoint)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        work(checkpoint)
        assert torch.get_num_threads() == 1, "fewer stay fewer"
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 4),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 4),
    ],
)
def test_a_quota_limits_the_threads(tmp_path, limit, expected):
    assert cores.cores(tree(tmp_path, cpu_max=limit)) == expected


def test_the_older_control_groups_limit_too(tmp_path, monkeypatch):
    groups = tmp_path / "cgroup"
    groups.write_text("4:memory:/\n3:cpu,cpuacct:/docker/abc\n")
    monkeypatch.setattr(cores, "Path", lambda path: groups)
    root = tree(tmp_path / "fs", cpu__cpu_cfs_quota_us="-1", cpu__cpu_cfs_period_us="100000")
    assert cores.cores(root) == 4
    tree(root / "cpu" / "docker" / "abc", cpu_cfs_quota_us="100000", cpu_cfs_period_us="100000")
    assert cores.cores(root) == 1


def test_without_control_groups_it_is_where_the_process_may_run(tmp_path):
    assert cores.cores(tmp_path) == 4


def test_a_limit_of_memory_counts_and_what_could_be_dropped_is_free(tmp_path):
    free = cores.free_memory(tmp_path)
    assert free > 0
    limits = {"memory.max": "1000", "memory.current": "700\n", "memory.stat": "anon 500\ninactive_file 200\n"}
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
    assert cores.free_memory(tmp_path) == 500
    (tmp_path / "memory.max").write_text("600")
    assert cores.free_memory(tmp_path) == 100
    (tmp_path / "memory.max").write_text("400")
    assert cores.free_memory(tmp_path) == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert cores.free_memory(tmp_path) > 1000


def test_the_older_control_groups_limit_memory(tmp_path, monkeypatch):
    groups = tmp_path / "cgroup"
    groups.write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/\n")
    monkeypatch.setattr(cores, "Path", lambda path: groups)
    inner = tmp_path / "fs" / "memory" / "docker" / "abc"
    inner.mkdir(parents=True)
    (inner / "memory.limit_in_bytes").write_text("1000")
    (inner / "memory.usage_in_bytes").write_text("900")
    (inner / "memory.stat").write_text("total_inactive_file 100\n")
    assert cores.free_memory(tmp_path / "fs") == 200


def test_what_others_took_of_a_virtual_machine_is_read(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 1 5 100 7 2 3 40 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert cores.stolen(stat) == (40, 21)
    stat.write_text("cpu 1 2\n")
    assert cores.stolen(stat) == cores.stolen(tmp_path / "missing") == (0, 0)
