"""Tensors written by our own hand: read by safetensors bit for bit, with the checksum of what is on the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trivium.files import append_line, sha256, write_tensors

KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
KINDS += (torch.int16, torch.int8, torch.uint8, torch.bool)


def test_safetensors_reads_what_was_written(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {f"of {kind}": (torch.randn(3, 5, generator=generator) * 9).to(kind) for kind in KINDS}
    tensors |= {"a number": torch.tensor(2.5), "nothing": torch.zeros(0, 4), "odd/é": torch.ones(1, 1, 3)}
    tensors["turned"] = torch.arange(12.0).view(3, 4).t()  # not contiguous
    path = tmp_path / "all.safetensors"
    assert write_tensors(path, tensors) == sha256(path)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_no_tensors_are_a_file_too(tmp_path):
    assert write_tensors(tmp_path / "none.safetensors", {}) == sha256(tmp_path / "none.safetensors")
    assert load_file(tmp_path / "none.safetensors") == {}


def test_a_full_disk_is_an_os_error():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError) as caught:
        write_tensors(full, {"a": torch.zeros(10)})
    assert caught.value.errno == errno.ENOSPC


def test_a_line_that_finds_no_room_is_not_left_half(tmp_path):
    """A limit on the size of files cuts a write short, as a disk does that fills up in the middle of it."""
    resource = pytest.importorskip("resource")
    log = tmp_path / "events.jsonl"
    append_line(log, "first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError):
            append_line(log, "a line that is longer than ten bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append_line(log, "last")
    assert log.read_text() == "first\nlast\n"
