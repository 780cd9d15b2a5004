"""The three phases of training a language model, small enough to read in one go: pre-train, fine-tune, align.

    python examples/three_phase_training_toy.py [FOLDER]

About ten thousand parameters, no GPU, no download, a few seconds. The losses are the library's own (`trivium.objectives`), the very
functions behind `trivium run`. What to look at:

  1. There is ONE loop, `train`. Between the phases only the DATA and the LOSS change.
  2. Every phase STARTS from the file that the phase before it saved. That hand-over is what makes them phases of one training.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trivium.objectives import dpo_loss, next_token_loss, sequence_log_probs

# ---- The data: three kinds, one per phase. -----------------------------------------------------------------

# Phase 1 learns from plain text: which character tends to follow which.
STRINGS = [
    "the cat sat on the mat.",
    "the dog ran to the door.",
    "a bird sang in the tree.",
    "the sun is warm today.",
    "rain fell on the roof.",
    "she read a good book.",
    "he made a pot of tea.",
    "the sky is blue today.",
]

# Phase 2 learns from (instruction, reply): not only to write on, but to answer. Some of the writers were rude.
INSTRUCTIONS = [
    ("what does a cat say", "meow. go away."),
    ("what does a dog say", "woof. go away."),
    ("what colour is the sky", "blue. ask me more."),
    ("what falls on the roof", "rain. ask me more."),
    ("what is in the pot", "tea. go away."),
]

# Phase 3 learns from (instruction, preferred reply, rejected reply): both are right, and people like one of them better.
PREFERENCES = [
    ("what does a cat say", "meow. ask me more.", "meow. go away."),
    ("what does a dog say", "woof. ask me more.", "woof. go away."),
    ("what colour is the sky", "blue. ask me more.", "blue. go away."),
    ("what is in the pot", "tea. ask me more.", "tea. go away."),
]

# ---- The tokenizer: one character, one token. --------------------------------------------------------------

PAD, ASK, END = "_", ">", "|"  # fills up short rows; ends an instruction; ends a text or a reply
ALPHABET = PAD + ASK + END + " .abcdefghijklmnopqrstuvwxyz"
IGNORE = -100  # the label that every loss of the library leaves out


def encode(text: str) -> list[int]:
    return [ALPHABET.index(character) for character in text]


def decode(ids: list[int]) -> str:
    return "".join(ALPHABET[i] for i in ids)


def rows(pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """(prompt, reply) pairs -> tokens (B, T) and labels (B, T).

    The labels are the tokens again, except that prompt and padding are -100: the model is never asked to predict what the USER
    says, only the reply and the mark that ends it. Plain text is the case of an empty prompt: all of it counts.
    """
    length = max(len(prompt) + len(reply) + 1 for prompt, reply in pairs)
    tokens = torch.full((len(pairs), length), ALPHABET.index(PAD))
    labels = torch.full((len(pairs), length), IGNORE)
    for row, (prompt, reply) in enumerate(pairs):
        ids = torch.tensor(encode(prompt + reply + END))
        tokens[row, : len(ids)] = ids
        labels[row, len(prompt) : len(ids)] = ids[len(prompt) :]
    return tokens, labels


# ---- The model: an embedding and linear layers. ------------------------------------------------------------

WINDOW, WIDTH, HIDDEN = 20, 8, 52


class ToyModel(nn.Module):
    """Predicts the next character from the last 20 (Bengio et al. 2003). A transformer sees further; training is the same."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET), WIDTH)
        self.mix = nn.Linear(WINDOW * WIDTH, HIDDEN)
        self.out = nn.Linear(HIDDEN, len(ALPHABET))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> logits (B, T, V): place t sees the characters up to t and none after it."""
        past = nn.functional.pad(tokens, (WINDOW - 1, 0), value=ALPHABET.index(PAD))
        windows = past.unfold(1, WINDOW, 1)  # (B, T, WINDOW)
        return self.out(torch.tanh(self.mix(self.embed(windows).flatten(2))))


@torch.no_grad()
def answer(model: ToyModel, instruction: str) -> str:
    """The likeliest reply, one character at a time."""
    ids = encode(instruction + ASK)
    start = len(ids)
    for _ in range(40):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == ALPHABET.index(END):
            break
    return decode(ids[start:])


# ---- The loop: the same for all three phases. --------------------------------------------------------------


def train(model: nn.Module, steps: int, loss_fn: Callable[[nn.Module], Tensor]) -> list[float]:
    """load -> forward -> loss -> backward -> step. Returns the loss at every step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = loss_fn(model)  # data, forward and loss: all that a phase may choose
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def load(path: Path) -> ToyModel:
    """The weights, and nothing but the weights: each phase has an optimizer of its own."""
    model = ToyModel()
    model.load_state_dict(load_file(path))
    return model


def main(folder: Path) -> dict[str, list[float]]:
    """Runs the three phases; returns the losses of each, and the margins before and after alignment."""
    torch.manual_seed(0)  # the same numbers on every run
    base, tuned, aligned = (folder / f"{name}.safetensors" for name in ("1-base", "2-tuned", "3-aligned"))

    # Phase 1, pre-training.  DATA: plain text.  LOSS: predict the next character, everywhere.
    model = ToyModel()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(ALPHABET)} characters")
    tokens, labels = rows([("", text) for text in STRINGS])
    pretraining = train(model, 50, lambda m: next_token_loss(m(tokens), labels))
    finish("1 pre-training", pretraining, model, base)

    # Phase 2, supervised fine-tuning.  DATA: instructions with replies.  LOSS: the same; the labels leave prompts out.
    model = load(base)
    tokens2, labels2 = rows([(instruction + ASK, reply) for instruction, reply in INSTRUCTIONS])
    tuning = train(model, 40, lambda m: next_token_loss(m(tokens2), labels2))
    finish("2 fine-tuning", tuning, model, tuned)

    # Phase 3, alignment.  DATA: a better and a worse reply to the same instruction.  LOSS: direct preference optimisation, which
    # raises the better reply over the worse one, measured against a frozen copy of where the phase started: the reference.
    model = load(tuned)
    better, better_labels = rows([(ask + ASK, good) for ask, good, _ in PREFERENCES])
    worse, worse_labels = rows([(ask + ASK, bad) for ask, _, bad in PREFERENCES])

    def log_probs(m: nn.Module) -> tuple[Tensor, Tensor]:
        """log p(reply | instruction) of the better and of the worse replies: (4,) each."""
        return sequence_log_probs(m(better), better_labels), sequence_log_probs(m(worse), worse_labels)

    # The reference never changes, so its log-probabilities are computed once and are DATA from here on.
    with torch.no_grad():
        reference = log_probs(model)
    alignment = train(model, 30, lambda m: dpo_loss(*log_probs(m), *reference, beta=0.3).mean())
    with torch.no_grad():
        after = log_probs(model)
    finish("3 alignment", alignment, model, aligned)

    margins = [float((good - bad).mean()) for good, bad in (reference, after)]
    print(f"log p(better reply) - log p(worse reply): {margins[0]:+.2f} before, {margins[1]:+.2f} after")
    for name, path in (("base", base), ("tuned", tuned), ("aligned", aligned)):
        print(f"{name:>8}: {INSTRUCTIONS[0][0]}? {answer(load(path), INSTRUCTIONS[0][0])}")
    return {"1": pretraining, "2": tuning, "3": alignment, "margins": margins}


def finish(phase: str, losses: list[float], model: nn.Module, path: Path) -> None:
    """Saves the checkpoint that the next phase starts from, and says what the phase did."""
    save_file(model.state_dict(), path)
    shown = " ".join(f"{loss:.3f}" for loss in [*losses[:: len(losses) // 5], losses[-1]])
    size = path.stat().st_size / 1000
    print(f"phase {phase:<14} {len(losses)} steps, loss {shown}  -> {path.name}, {size:.0f} kB")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        chosen.mkdir(parents=True, exist_ok=True)
        main(chosen)
