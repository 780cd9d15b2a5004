"""A real Slurm on loopback: slurmctld and one slurmd, started for the tests (Debian's package slurm-wlm)."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from test_launch import close, command, folder, result, run  # noqa: F401 (folder is a fixture)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("slurmctld") is None or os.geteuid() != 0, reason="needs root and the package slurm-wlm"
    ),
]

CONFIGURATION = """
ClusterName=loopback
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmdPort={worker}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[None]:
    place = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (place / name).mkdir()
    text = CONFIGURATION.format(
        folder=place, controller=free_port(), worker=free_port(), cpus=max(2, os.cpu_count() or 2)
    )
    (place / "slurm.conf").write_text(text)
    before = dict(os.environ)
    os.environ["SLURM_CONF"] = str(place / "slurm.conf")
    daemons = [
        subprocess.Popen(["slurmctld", "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        subprocess.Popen(
            ["slurmd", "-D", "-N", "localhost"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ),
    ]
    try:
        for _ in range(100):
            states = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
            if states.stdout.strip() == "idle":
                break
            time.sleep(0.2)
        else:
            pytest.fail("Slurm did not come up: " + (place / "slurmctld.log").read_text()[-2000:])
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        os.environ.clear()
        os.environ.update(before)


def test_two_ranks_on_slurm_leave_the_same_checkpoint(slurm, folder):  # noqa: F811
    weights, _ = run(folder, "slurm", "base.parallel.shard=2", "base.launch.kind=slurm")
    assert close(weights, run(folder, "alone")[0])


def test_a_preempted_job_is_queued_again_and_goes_on_from_its_checkpoint(slurm, folder):  # noqa: F811
    overrides = ("base.parallel.data=2", "base.checkpoint_every=0s", "base.steps=300")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(folder, "preempted", *overrides, "base.launch.kind=slurm"),
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    signalled = False
    while process.poll() is None:
        time.sleep(0.2)
        if not signalled and list((folder / "preempted").glob("work/*/checkpoints/step-*/manifest.json")):
            jobs = subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True, check=True)
            number = jobs.stdout.split()[0]
            subprocess.run(
                ["scancel", "--signal=USR2", number], check=True
            )  # what Slurm sends before it takes the node
            signalled = True
    assert signalled and process.returncode == 0
    weights, events = result(folder, "preempted")
    assert any(event["event"] == "resume" for event in events)
    assert close(weights, run(folder, "undisturbed", *overrides)[0])


CORES = """\
accelerator: {name: Core, bf16_dense_tflops: 0.1, memory_gb: 0.0013, memory_gb_per_s: 10}
count: 2
per_node: 2
"""


def test_auto_runs_on_slurm_on_as_many_nodes_as_its_ranks_fill(slurm, folder):  # noqa: F811
    """The recipe names neither nodes nor a layout; this Slurm has one node."""
    (folder / "cores.yaml").write_text(CORES)
    launch = ("base.launch.kind=slurm", "base.launch.on=cores.yaml")
    weights, events = run(folder, "auto-slurm", "base.parallel=auto", *launch)
    ran = next(event for event in events if event["event"] == "stage_end" and event["stage"] == "base")
    axes = ("data", "shard", "tensor", "context", "pipeline")
    assert math.prod(ran["metrics"]["layout"].get(axis, 1) for axis in axes) == 2
    assert close(weights, run(folder, "alone")[0])
