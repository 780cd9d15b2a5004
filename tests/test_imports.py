"""An imported checkpoint as a stage: cached by the bytes of its files, a start for training, and clear about what is wrong."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from trivium.errors import ArtifactError, RecipeError, TriviumError
from trivium.imports import import_checkpoint, open_checkpoint
from trivium.model import generation
from trivium.pipeline.run import run
from trivium.pipeline.stages import STAGES
from trivium.pipeline.store import Store
from trivium.recipe.load import loads
from trivium.recipe.network import Generation
from trivium.text.special import Special

sys.path += [str(Path(__file__).parent / "model"), str(Path(__file__).parent / "text")]
import families
import test_foreign

RECIPE = """\
name: borrowed
stages:
  theirs: {kind: import, path: folder}
  talks: {kind: data, format: conversations, sources: [{kind: jsonl, path: talks.jsonl}]}
  chat:
    {kind: sft, init: theirs, data: talks, steps: 2, batch: 2, context: 64, compile: off, device: cpu, adapter: {rank: 2}}
"""


def checkpoint(folder: Path) -> Path:
    """A Qwen2 with the vocabulary of a small ChatML tokenizer."""
    chat = test_foreign.chat()
    families.CASES["small"] = ("qwen2", {"vocab_size": 400, "tie_word_embeddings": True})
    families.checkpoint("small", folder)
    test_foreign.ChatTokenizer(
        chat.tokenizer, chat.template, Special("<|im_end|>", None, "<|endoftext|>", stops=(7,))
    ).save(folder, context=64)
    said = {"eos_token_id": [322, 7], "do_sample": True, "temperature": 0.6, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(said))
    talks = [json.dumps({"prompt": f"say {number}", "completion": str(number)}) for number in range(40)]
    (folder.parent / "talks.jsonl").write_text("\n".join(talks))
    return folder


def go(tmp_path: Path, store: Store) -> None:
    places = dict(registry=STAGES, recipe_folder=tmp_path, runs_folder=tmp_path / "runs")
    run(loads(RECIPE), store=store, emit=lambda event: None, **places)


def test_import_then_tune(tmp_path):
    checkpoint(tmp_path / "folder")
    store = Store(tmp_path / "store")
    go(tmp_path, store)
    model, chat = open_checkpoint(tmp_path / "runs" / "borrowed" / "chat")
    assert chat.stops[0] == chat.end
    assert 7 in chat.stops  # what ends a reply came along
    assert (tmp_path / "runs" / "borrowed" / "chat" / "adapter" / "adapter_config.json").is_file()
    drawn = generation.read(tmp_path / "runs" / "borrowed" / "chat")
    assert drawn == Generation(temperature=0.6, top_k=20)  # and how its replies are drawn
    assert model.config.qkv_bias
    first = (tmp_path / "runs" / "borrowed" / "theirs").resolve()
    shutil.move(tmp_path / "folder", tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "folder")
    go(tmp_path, store)
    assert (tmp_path / "runs" / "borrowed" / "theirs").resolve() == first  # the same bytes, the same artifact
    config = tmp_path / "folder" / "generation_config.json"
    config.write_text(json.dumps({"eos_token_id": [322]}))
    go(tmp_path, store)
    assert (tmp_path / "runs" / "borrowed" / "theirs").resolve() != first


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: shutil.rmtree(f), "there is no checkpoint"),
        (lambda f: (f / "config.json").unlink(), "no config.json .it holds"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04garbage" * 9),
            "pickle under another name",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x01" * 99), "cannot be read"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json is damaged"),
        (lambda f: (f / "tokenizer_config.json").write_text("{"), "is no JSON"),
        (
            lambda f: (f / "tokenizer_config.json").write_text('{"eos_token": "<nothing>"}'),
            "not in its vocabulary",
        ),
        (lambda f: (f / "chat_template.jinja").write_text("{% if %}"), "no valid jinja"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "'bert'"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_step(tmp_path, damage, said):
    damage(checkpoint(tmp_path / "folder"))
    with pytest.raises(TriviumError, match=said):
        go(tmp_path, Store(tmp_path / "store"))


def test_any_flipped_or_cut_file_gives_an_error_for_people_or_a_model(tmp_path):
    """Bytes are changed at fixed places of every file: nothing but a TriviumError may come out."""
    folder = checkpoint(tmp_path / "folder")
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for broken in (
            b"",
            whole[: len(whole) // 2],
            b"\xff" + whole[1:],
            whole.replace(b":", b";", 3),
            b"[1]",
        ):
            file.write_bytes(broken)
            with contextlib.suppress(TriviumError):
                open_checkpoint(folder)
        file.write_bytes(whole)
    open_checkpoint(folder)


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"notes\.txt is no checkpoint"):
        open_checkpoint(tmp_path / "notes.txt")


def test_rows_longer_than_an_imported_model_reads(tmp_path):
    checkpoint(tmp_path / "folder")
    places = dict(registry=STAGES, recipe_folder=tmp_path, runs_folder=tmp_path / "runs")
    recipe = loads(RECIPE.replace("context: 64", "context: 65"))
    with pytest.raises(RecipeError, match="65 tokens exceed the model's context of 64"):
        run(recipe, store=Store(tmp_path / "store"), emit=lambda event: None, **places)


def base_like(folder: Path, template: str, **tokens: str) -> Path:
    """As Qwen's base models: texts end in one token, the template's turns in another."""
    checkpoint(folder)
    chat = test_foreign.chat()
    test_foreign.ChatTokenizer(chat.tokenizer, template, Special("<|endoftext|>", **tokens)).save(
        folder, context=64
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 320}))
    return folder


def test_the_end_of_a_turn_is_exported_as_a_stop(tmp_path):
    folder = base_like(tmp_path / "folder", test_foreign.CHATML)
    events = []
    import_checkpoint(folder, tmp_path / "out", emit=events.append)
    _, chat = open_checkpoint(tmp_path / "out")
    end = chat.tokenizer.token_to_id("<|im_end|>")
    said = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert said["eos_token_id"][0] == chat.end == end
    assert chat.tokenizer.token_to_id("<|endoftext|>") in said["eos_token_id"]
    assert not events


def test_a_template_without_an_end_is_warned_of(tmp_path):
    events = []
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    import_checkpoint(base_like(tmp_path / "folder", template), tmp_path / "out", emit=events.append)
    assert "writes nothing behind a reply" in events[0]["message"]


def test_marks_that_are_cut_into_pieces_are_refused_and_added(tmp_path):
    template = test_foreign.CHATML.replace("im_start", "turn").replace("im_end", "stop")
    folder = base_like(tmp_path / "folder", template)
    model, _ = open_checkpoint(folder)
    with pytest.raises(
        ArtifactError, match=r"ends a reply with '<\|stop\|>', which the tokenizer cuts into \d+ tokens"
    ):
        import_checkpoint(folder, tmp_path / "no")
    new = [f"<|extra {number}|>" for number in range(110)]  # more than the spare rows
    import_checkpoint(folder, tmp_path / "out", add_tokens=["<|turn|>", "<|stop|>", *new], eos="<|stop|>")
    grown, chat = open_checkpoint(tmp_path / "out")
    assert chat.special.eos == "<|stop|>"
    assert chat.stops[0] == chat.end == chat.tokenizer.token_to_id("<|stop|>")
    old = model.model.embed_tokens.weight
    rows = grown.model.embed_tokens.weight
    assert rows.shape[0] == grown.config.vocab_size == chat.vocab_size > old.shape[0]
    known = test_foreign.chat().vocab_size
    assert rows[:known].equal(old[:known])
    assert (rows[known:] - old[:known].mean(0)).abs().max() < 1e-6
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = families.tokens()
    assert (families.logits(grown, tokens) - theirs(tokens).logits).abs().max() < 1e-4
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|stop|>"


def test_an_end_that_is_nowhere(tmp_path):
    folder = base_like(tmp_path / "folder", test_foreign.CHATML)
    with pytest.raises(ArtifactError, match="`eos` is '<nowhere>'"):
        import_checkpoint(folder, tmp_path / "out", eos="<nowhere>")
