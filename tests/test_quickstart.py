"""`make quickstart` installs little: its recipe has to get along with that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Hides every module that the core and the extra `quickstart` do not bring, directly or through what they need.
ONLY_QUICKSTART = """
import re, sys, tomllib
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

def name(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[\\w.-]+", requirement)[0]).lower()

project = tomllib.loads(open("pyproject.toml").read())["project"]
queue = [name(one) for one in project["dependencies"] + project["optional-dependencies"]["quickstart"]]
installed = {"trivium"}
while queue:
    package = queue.pop()
    if package in installed:
        continue
    installed.add(package)
    try:
        queue += [name(one) for one in requires(package) or () if "extra ==" not in one]
    except PackageNotFoundError:  # for another system
        pass
hidden = {
    module for module, packages in packages_distributions().items() if not {name(one) for one in packages} & installed
}

class OnlyThese(PathFinder):
    @classmethod
    def find_spec(cls, module, path=None, target=None):
        return None if module.split(".")[0] in hidden else super().find_spec(module, path, target)

sys.meta_path = [OnlyThese if finder is PathFinder else finder for finder in sys.meta_path]
assert {"transformers", "scipy", "pytest", "ray"} <= hidden and not {"torch", "pyarrow", "rich"} & hidden
from trivium.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_the_quickstart_needs_no_more_than_make_quickstart_installs(tmp_path):
    small = (
        "corpus.size=150K", "dialogues.size=60", "pairs.size=120", "vocab.vocab_size=400", "sft.compile=off", "base.compile=off",
        "base.model={dim: 32, layers: 1, heads: 2, context: 256}", "base.tokens=8K", "sft.epochs=0.2", "aligned.steps=2",
    )  # fmt: skip
    overrides = [part for override in small for part in ("-o", override)]
    done = subprocess.run(
        [sys.executable, "-c", ONLY_QUICKSTART, "run", "recipes/quickstart.yaml", *overrides,
         "--only", "int8", "--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "quickstart" / "int8" / "model.safetensors").is_file()


FIVE = {
    "What does os.path.join do?": r"Join two or more pathname components",
    "Tell me about list.append": r"Append object to the end of the list",
    "What is 12 + 30?": r"Answer: 42\b",
    "Sort 3, 1, 2": r"Answer: 1, 2, 3\b",
    "Who are you?": r"I am a small language model",
}


@pytest.mark.slow(30)
def test_the_quickstart_answers_five_questions(tmp_path):
    """Trains the whole recipe (some twenty minutes on two cores) and asks as a newcomer would, each question in a chat of its
    own and all of them in one, at the temperature of a chat. Another processor trains another model: of five,
    one may be missed alone and two in a row."""
    trivium = [sys.executable, "-c", "from trivium.cli import main; import sys; main(sys.argv[1:])"]
    runs = tmp_path / "runs"
    made = subprocess.run(
        [*trivium, "run", "recipes/quickstart.yaml", "--only", "int8",
         "--store", str(tmp_path / "store"), "--runs", str(runs)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    chat = [*trivium, "chat", str(runs / "quickstart" / "int8")]
    right = 0
    for question, expected in FIVE.items():
        replies = [
            subprocess.run([*chat, "-p", question, "--seed", str(seed)], cwd=ROOT, capture_output=True, text=True, check=True)
            for seed in range(3)
        ]  # fmt: skip
        right += sum(bool(re.search(expected, reply.stdout)) for reply in replies) >= 2
    together = subprocess.run(
        chat, input="\n".join([*FIVE, "/quit", ""]), cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert right >= 4
    assert sum(bool(re.search(expected, together)) for expected in FIVE.values()) >= 3, together
