"""`trivium doctor`: what this machine brings, what that means for a run, and what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from trivium.cli.options import STORE, StoreFolder
from trivium.errors import TriviumError

if TYPE_CHECKING:
    from trivium.pipeline.store import Store

OK, LIMITED, BROKEN = "ok", "limited", "broken"
MARKS = {OK: ("✓", "green"), LIMITED: ("!", "yellow"), BROKEN: ("✗", "red")}
PORT = 8000
"""Where `trivium serve` listens if nobody says otherwise."""
LITTLE_DISK, LITTLE_MEMORY = 5e9, 4e9
"""Bytes below which a first run is likely to stop: the quickstart takes 1.3 GB of packages and 0.3 GB of artifacts."""
SECONDS = 10.0
"""That a program may take to say its version."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: str
    """ok; limited: works, but not all of it or not as fast; broken: runs will fail."""
    found: str
    means: str = ""
    do: str = ""


def doctor(
    store: StoreFolder = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at this machine: Python, PyTorch, numbers, compiler, cores, memory, disk, ports, clusters, extras.

    Each finding says what it means for a run and what to do. Exit code 1 if something would make runs fail.

    Example:

      trivium doctor
    """
    from trivium.pipeline.store import opened

    kept = opened(store)
    findings = [finding for check in CHECKS for finding in check(kept)]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        console = Console(highlight=False)
        for finding in findings:
            mark, colour = MARKS[finding.state]
            console.print(Text.assemble((mark, colour), " ", (finding.what, "bold"), f"  {finding.found}"))
            for text, style in ((finding.means, ""), (finding.do and f"→ {finding.do}", "bold")):
                if text:
                    console.print(Padding(Text(text, style=style), (0, 0, 0, 4)))
    if broken := [finding.what for finding in findings if finding.state == BROKEN]:
        raise TriviumError(f"runs will fail here: {', '.join(broken)}", fix="see what stands behind → above")


def _python(store: Store) -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    good = sys.version_info >= (3, 11)
    do = "" if good else "make a virtual environment with Python 3.11 or newer"
    yield Finding("Python", OK if good else BROKEN, found, do=do)


def _torch(store: Store) -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("PyTorch", BROKEN, f"cannot be loaded: {error}", do="pip install torch")
        return
    from trivium.cores import native_bf16
    from trivium.train.machine import can_compile

    cuda = torch.version.cuda or torch.version.hip
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding(
        "PyTorch", OK, f"{torch.__version__}, built for {f'GPUs ({cuda})' if cuda else 'processors only'}"
    )
    if devices:
        yield Finding("GPU", OK, ", ".join(devices))
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "GPU",
            LIMITED,
            "there is an NVIDIA driver, and PyTorch sees no device",
            "training runs on the processor",
            "install a build of PyTorch for your driver's CUDA; see pytorch.org",
        )
    device = "cuda" if devices else "cpu"
    if native_bf16(device):
        yield Finding("bf16", OK, "computed by instructions of its own", "`precision: auto` takes bf16")
    else:
        means = "`precision: auto` takes float32: about half as fast, with twice the memory; bf16 is refused"
        yield Finding("bf16", LIMITED, "no instructions for it", means)
    if can_compile(device):
        yield Finding("compiler", OK, "found: torch.compile works")
    else:
        means = "training runs uncompiled, up to twice as slow"
        yield Finding("compiler", LIMITED, "no C++ compiler", means, "apt install g++, or set CXX")


def _cores(store: Store) -> Iterator[Finding]:
    from trivium.cores import cores

    usable, there = cores(), os.cpu_count() or 1
    found = f"{usable} of {there}" if usable != there else str(there)
    named = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    limits = "a limit of the container or of its affinity; threads follow it" if usable != there else ""
    if named:
        said = ", ".join(f"{name}={value}" for name, value in named.items())
        yield Finding(
            "cores",
            LIMITED,
            f"{found}, and {said}",
            "so many threads compute",
            "unset it, if that is too few",
        )
    else:
        yield Finding("cores", OK, found, limits)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5 * usable:
        yield Finding(
            "load",
            LIMITED,
            f"{load:.1f} processes compete for {usable} cores",
            "runs take longer than planned",
        )


def _memory(store: Store) -> Iterator[Finding]:
    from trivium.cores import free_memory

    free = free_memory()
    state = OK if free > LITTLE_MEMORY else LIMITED
    do = "" if state == OK else "lower `batch`, or set `micro_batch` and `recompute: blocks`"
    yield Finding("memory", state, f"{free / 1e9:.1f} GB free", do=do)


def _disk(store: Store) -> Iterator[Finding]:
    place = store.root.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not _writable(place):
        yield Finding("disk", BROKEN, f"{place} cannot be written", do="name another place with --store")
        return
    state = OK if free > LITTLE_DISK else LIMITED
    yield Finding(
        "disk",
        state,
        f"{free / 1e9:.1f} GB free at {place}",
        do="" if state == OK else "trivium store gc frees some",
    )


def _remote(store: Store) -> Iterator[Finding]:
    if store.remote is None:
        return
    try:
        store.remote.objects.ready()
    except TriviumError as error:
        yield Finding("store", BROKEN, error.what, do=error.fix)
    else:
        found = f"{store.place} answers, and refuses a second writer what it has from a first"
        yield Finding("store", OK, found, f"{store.root} is the cache in front of it")


def _port(store: Store) -> Iterator[Finding]:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            yield Finding(
                "port",
                LIMITED,
                f"{PORT} is taken",
                "trivium serve listens there",
                "give it another with --port",
            )
        else:
            yield Finding("port", OK, f"{PORT} is free for trivium serve")


def _clusters(store: Store) -> Iterator[Finding]:
    """Slurm is asked through its programs, Ray through its package."""
    for name, package, there in (("Slurm", "submitit", bool(shutil.which("sbatch"))), ("Ray", "ray", True)):
        if there and _installed(package):
            yield Finding(
                name, OK, _version("sbatch") if name == "Slurm" else importlib.metadata.version(package)
            )
            continue
        yield Finding(
            name,
            LIMITED,
            "the extra `cluster` is missing" if there else "the program sbatch is missing",
            f"`launch: {{kind: {name.lower()}}}` needs it; all else does not",
            "pip install 'trivium[cluster]'" if there else "",
        )


def _extras(store: Store) -> Iterator[Finding]:
    missing: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("trivium") or ():
        if match := re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement):
            missing.setdefault(match[2], [])
            if match[1].lower() != "trivium" and not _installed(match[1]):
                missing[match[2]].append(match[1])
    for extra, packages in missing.items():
        if extra in ("dev", "testing"):
            continue
        if packages:
            yield Finding(
                f"extra {extra}",
                LIMITED,
                f"without {', '.join(packages)}",
                do=f"pip install 'trivium[{extra}]'",
            )
        else:
            yield Finding(f"extra {extra}", OK, "installed")


def _functions(store: Store) -> Iterator[Finding]:
    from trivium.verify import confine

    done = subprocess.run(
        [sys.executable, "-I", confine.__file__], capture_output=True, text=True, check=False
    )
    left = json.loads(done.stdout) if done.returncode == 0 else [confine.FILES, confine.NETWORK]
    if not left:
        yield Finding("verifiers of yours", OK, "their calls have no files and no network")
        return
    means = f"a verifier's function, and code of a model that it runs, can reach {' and '.join(left)}, with your rights"
    do = "run such recipes in a container, or on Linux 5.13 or newer"
    yield Finding("verifiers of yours", LIMITED, "this system cannot confine their calls", means, do)


CHECKS: tuple[Callable[[Store], Iterator[Finding]], ...] = (
    _python,
    _torch,
    _cores,
    _memory,
    _disk,
    _remote,
    _port,
    _clusters,
    _functions,
    _extras,
)


def _writable(place: Path) -> bool:
    return os.access(place, os.W_OK)


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _version(program: str) -> str:
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "does not answer"
    return said.stdout.strip().splitlines()[0] if said.stdout.strip() else "found"
