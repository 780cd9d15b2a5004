"""Editors complete a recipe from `trivium schema`: asked of the language server that VS Code's YAML extension runs."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trivium.recipe.schema import schema

SERVER = "yaml-language-server@1.25.0"
pytestmark = pytest.mark.slow


class Editor:
    """As much of an editor as asks for completion, hover and problems, by the Language Server Protocol over pipes."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.folder = folder
        self.server = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.numbers = itertools.count(1)
        self.problems: dict[str, list[str]] = {}
        root = folder.as_uri()
        self.ask("initialize", {"processId": None, "rootUri": root, "capabilities": {}})
        self.tell("initialized", {})

    def tell(self, method: str, params: Any, **more: Any) -> None:
        self._write({"jsonrpc": "2.0", "method": method, "params": params, **more})

    def ask(self, method: str, params: Any) -> Any:
        number = next(self.numbers)
        self.tell(method, params, id=number)
        while True:
            message = self._read()
            if message.get("method") == "textDocument/publishDiagnostics":
                found = message["params"]
                self.problems[found["uri"]] = [one["message"] for one in found["diagnostics"]]
            elif "method" in message and "id" in message:  # it asks for settings: there are none
                wanted = message["params"].get("items", []) if message.get("params") else []
                self._write({"jsonrpc": "2.0", "id": message["id"], "result": [None for _ in wanted]})
            elif message.get("id") == number:
                assert "result" in message, message
                return message["result"]

    def open(self, text: str) -> str:
        """The address of a new file; ends when its problems are known."""
        uri = (self.folder / f"recipe-{next(self.numbers)}.yaml").as_uri()
        self.tell(
            "textDocument/didOpen",
            {"textDocument": {"uri": uri, "languageId": "yaml", "version": 1, "text": text}},
        )
        while uri not in self.problems:
            self.ask(
                "textDocument/hover", {"textDocument": {"uri": uri}, "position": {"line": 0, "character": 0}}
            )
        return uri

    def offered(self, text: str) -> dict[str, str]:
        """What may stand where `|` stands, with its help."""
        uri, before = self.open(text.replace("|", "")), text.split("|")[0].splitlines()
        where = {"line": len(before) - 1, "character": len(before[-1])}
        found = self.ask("textDocument/completion", {"textDocument": {"uri": uri}, "position": where})
        help_ = {item["label"]: item.get("documentation") or "" for item in found["items"]}
        return {label: said if isinstance(said, str) else said["value"] for label, said in help_.items()}

    def _write(self, message: Any) -> None:
        content = json.dumps(message).encode()
        assert self.server.stdin is not None
        self.server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(content), content))
        self.server.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self.server.stdout is not None
        length = 0
        while line := self.server.stdout.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        assert length, "the language server ended"
        message: dict[str, Any] = json.loads(self.server.stdout.read(length))
        return message


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    folder = tmp_path_factory.mktemp("editor")
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npx is not installed")
    command = [npx, "--yes", "--package", SERVER, "--", "yaml-language-server", "--stdio"]
    there = subprocess.run([*command[:5], "node", "-e", "0"], cwd=folder, capture_output=True, check=False)
    if there.returncode != 0:
        pytest.skip(f"{SERVER} cannot be had: {there.stderr.decode()[-200:]}")
    (folder / "recipe.schema.json").write_text(json.dumps(schema()))
    one = Editor(command, folder)
    yield one
    one.server.kill()
    one.server.communicate()


LINE = "# yaml-language-server: $schema=recipe.schema.json\n"


def test_kinds_and_their_fields_are_offered_with_their_help(editor: Editor) -> None:
    kinds = editor.offered(f"{LINE}name: x\nstages:\n  a:\n    kind: |")
    assert {"data", "sft", "dpo", "grpo", "evaluate", "release"} <= set(kinds)
    fields = editor.offered(f"{LINE}name: x\nstages:\n  a:\n    kind: dpo\n    |")
    assert {"init", "beta", "label_smoothing", "epochs"} <= set(fields) and "scheme" not in fields
    assert schema()["$defs"]["DpoStage"]["properties"]["beta"]["description"][:30] in fields["beta"]
    assert "log_every" in editor.offered(f"{LINE}name: x\nstages:\n  a:\n    kind: sft\n    l|")
    inner = editor.offered(
        f"{LINE}name: x\nstages:\n  a:\n    kind: data\n    sources:\n      - kind: jsonl\n        |"
    )
    assert {"path", "weight"} <= set(inner) and "user_agent" not in inner


def test_mistakes_are_underlined_and_our_recipes_are_not(editor: Editor) -> None:
    wrong = editor.open(f"{LINE}name: x\nstages:\n  a: {{kind: dpo, init: b, data: c, bta: 0.1}}\n")
    assert editor.problems[wrong] == ["Property bta is not allowed."]
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        right = editor.open(LINE + recipe.read_text(encoding="utf-8"))
        assert editor.problems[right] == [], recipe.name
