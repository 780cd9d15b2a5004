"""No files and no network for a process and all that it starts, by Landlock and seccomp of Linux, which need no rights.

Read by `worker.py`, which is started by its path and imports nothing of Trivium; so does this. What may still be opened is what
Python itself is made of. Descriptors that are open stay open.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

FILES, NETWORK = "files", "network"
CREATE, ADD, RESTRICT = 444, 445, 446
"""Landlock's system calls, the same on every processor."""
READ, READ_FOLDER, WRITE = 1 << 0 | 1 << 2, 1 << 3, 1 << 1
RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Landlock's version -> how many kinds of access to files it knows."""
SIGNALS = 1 << 1
"""Its scope: no signals to processes outside (from version 6)."""
BY_READING = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/proc/cpuinfo", "/proc/meminfo", "/dev/urandom",
              "/sys/devices/system/cpu")  # fmt: skip
CALLS = {
    "x86_64": (0xC000003E, (41, 53, 42, 425, 101, 310, 311, 438)),
    "aarch64": (0xC00000B7, (198, 199, 203, 425, 117, 270, 271, 438)),
}
"""Processor -> its name in a filter, and the numbers of socket, socketpair, connect, io_uring_setup (which opens sockets, too),
ptrace, process_vm_readv, process_vm_writev and pidfd_getfd (which reach into other processes)."""
X32 = 0x40000000
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
REFUSE, ALLOW = 0x00050000 | 1, 0x7FFF0000
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2


def confine() -> list[str]:
    """Takes both away; what this machine cannot take away, of FILES and NETWORK. It cannot be undone."""
    if not sys.platform.startswith("linux"):
        return [FILES, NETWORK]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return [FILES, NETWORK]
    return [*([] if _no_files(libc) else [FILES]), *([] if _no_network(libc) else [NETWORK])]


def _no_files(libc: ctypes.CDLL) -> bool:
    def call(number: int, *given: bytes | int | None) -> int:
        """A system call, numbers as wide as its registers."""
        wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in (number, *given)]
        return int(libc.syscall(*wide))

    version = call(CREATE, None, 0, 1)
    if version < 1:
        return False
    handled = (1 << RIGHTS[max(known for known in RIGHTS if known <= version)]) - 1
    asked = struct.pack("=QQQ", handled, 0, SIGNALS) if version >= 6 else struct.pack("=Q", handled)
    rules = call(CREATE, asked, len(asked), 0)
    if rules < 0:
        return False
    try:
        for path, allowed in _readable():
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                if call(ADD, rules, 1, struct.pack("=Qi", allowed, place), 0):
                    return False
            finally:
                os.close(place)
        return call(RESTRICT, rules, 0) == 0
    finally:
        os.close(rules)


def _readable() -> Iterator[tuple[Path, int]]:
    yield Path(os.devnull), READ | WRITE
    own = (sys.prefix, sys.base_prefix, *filter(os.path.isabs, sys.path))
    for path in map(Path, dict.fromkeys((*own, *BY_READING))):
        if path.exists():
            yield path, READ | READ_FOLDER if path.is_dir() else READ


class _Line(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("yes", ctypes.c_ubyte),
        ("no", ctypes.c_ubyte),
        ("value", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.POINTER(_Line)))


def _no_network(libc: ctypes.CDLL) -> bool:
    if platform.machine() not in CALLS:
        return False
    processor, calls = CALLS[platform.machine()]
    last = len(calls) + 5

    def refused(at: int) -> int:
        """The jump from a line to the last one, counted from the line behind it."""
        return last - at - 1

    lines = [
        (LOAD, 0, 0, 4),  # the processor that the call is for
        (EQUAL, 0, refused(1), processor),
        (LOAD, 0, 0, 0),  # its number
        (AT_LEAST, refused(3), 0, X32),
        *((EQUAL, refused(place), 0, call) for place, call in enumerate(calls, start=4)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    ]
    program = (_Line * len(lines))(*(_Line(*line) for line in lines))
    asked = _Program(len(lines), program)
    return bool(libc.prctl(SECCOMP, FILTER, ctypes.byref(asked), 0, 0) == 0)


if __name__ == "__main__":  # what a process of its own cannot be kept from here
    print(json.dumps(confine()))
