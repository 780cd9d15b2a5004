"""The toy teaches what it claims: three phases, each from the file of the one before, every loss falling."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from trivium.objectives import next_token_loss

FILE = Path(__file__).parents[2] / "examples" / "three_phase_training_toy.py"
CHECKPOINTS = ["1-base.safetensors", "2-tuned.safetensors", "3-aligned.safetensors"]


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_losses_fall_and_the_margin_turns(toy, tmp_path, monkeypatch, capsys):
    started = []
    load = toy.load
    monkeypatch.setattr(toy, "load", lambda path: started.append(path.name) or load(path))
    result = toy.main(tmp_path)
    assert [len(result[phase]) for phase in "123"] == [50, 40, 30]
    for phase in "123":
        assert result[phase][-1] < 0.2 * result[phase][0]
    assert result["3"][0] == pytest.approx(0.6931, abs=1e-3)  # policy = reference: ln 2
    before, after = result["margins"]
    assert before < 0 < after
    assert started[:2] == CHECKPOINTS[:2], "each phase starts from the file of the phase before"
    assert sorted(path.name for path in tmp_path.iterdir()) == CHECKPOINTS
    assert all(30_000 < path.stat().st_size < 50_000 for path in tmp_path.iterdir())
    weights = [load_file(tmp_path / name) for name in CHECKPOINTS]
    assert all(8_000 < sum(t.numel() for t in state.values()) < 12_000 for state in weights)
    shown = capsys.readouterr().out
    assert f"{before:+.2f} before, {after:+.2f} after" in shown
    assert "tuned: what does a cat say? meow. go away." in shown
    assert "aligned: what does a cat say? meow. ask me more." in shown


def test_prompts_and_padding_carry_no_loss(toy):
    model = toy.ToyModel()
    tokens, labels = toy.rows([("ask>", "yes."), ("a longer question>", "no."), ("", "text")])
    learned = [toy.decode([i for i in row if i != toy.IGNORE]) for row in labels.tolist()]
    assert learned == ["yes.|", "no.|", "text|"]
    torch.manual_seed(1)
    logits = model(tokens)
    logits.retain_grad()
    next_token_loss(logits, labels).backward()
    touched = logits.grad.abs().sum(-1) > 0
    expected = torch.zeros_like(touched)
    expected[:, :-1] = labels[:, 1:] != toy.IGNORE  # the place before each learned character, and no other
    assert torch.equal(touched, expected)


def test_a_place_sees_nothing_that_comes_after_it(toy):
    torch.manual_seed(2)
    model = toy.ToyModel()
    tokens = torch.tensor([toy.encode("the cat sat on the mat")])
    changed = tokens.clone()
    changed[0, 10:] = 5
    assert torch.equal(model(tokens)[:, :10], model(changed)[:, :10])
    assert not torch.equal(model(tokens)[:, 10:], model(changed)[:, 10:])


def test_it_runs_as_a_file_and_fits_on_a_few_screens(tmp_path):
    done = subprocess.run(
        [sys.executable, FILE, tmp_path / "new"], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("phase ") == 3
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == CHECKPOINTS
    assert len(FILE.read_text(encoding="utf-8").splitlines()) < 200
