"""GGUF files: what goes in comes out, the mix is llama.cpp's, and what a file costs is measured and bounded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model
from tokenizers import Tokenizer

from trivium.deploy import speed
from trivium.deploy.calibrate import importance
from trivium.deploy.compare import check, compare
from trivium.deploy.export import export, modelfile, write
from trivium.deploy.rows import token_rows
from trivium.errors import ArtifactError, GateError, RecipeError
from trivium.imports import open_checkpoint
from trivium.model import ggml, gguf, gguf_write
from trivium.recipe.deployment import ExportStage, GgufType
from trivium.recipe.load import loads
from trivium.recipe.network import Generation, RopeScaling
from trivium.text.chat import ChatTokenizer
from trivium.text.gguf_write import PROBE, rule_of
from trivium.text.ollama import go_template

reader = pytest.importorskip("gguf")
pytest.importorskip("libggml")

TYPES = get_args(GgufType)
SHAPES = {
    "llama": {},
    "tied": {"tie_embeddings": True},
    "wide heads": {"head_dim": 16},
    "llama with biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "smollm3": {"layers": 4, "no_rope": frozenset({3}), "tie_embeddings": True},
    "granite": {"embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 0.25, "attention_scale": 0.2},
    "linear": {"rope_scaling": RopeScaling(kind="linear", factor=2)},
    "yarn": {"rope_scaling": RopeScaling(kind="yarn", factor=4, original=16)},
    "llama3": {"head_dim": 64, "rope_scaling": RopeScaling(kind="llama3", factor=8, original=8192)},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_tensor_and_setting_that_went_in_comes_out(shape, chat, tmp_path):
    model = random_model(**SHAPES[shape])
    write(tmp_path / "model.gguf", "f32", model, chat, "tiny")
    again, _ = open_checkpoint(tmp_path / "model.gguf")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    tokens = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(0))
    batch = {"tokens": tokens, "positions": torch.arange(40).expand(2, 40)}
    with torch.no_grad():
        a, b = (m(batch, {"logits"}).logits for m in (model, again))
    assert (a - b).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [{"window": 8, "windowed": frozenset({0, 1})}, {"norms": "both"}])
def test_what_gguf_has_no_words_for_is_refused(shape, chat, tmp_path):
    with pytest.raises(ArtifactError):
        write(tmp_path / "model.gguf", "f32", random_model(**shape), chat, "tiny")
    assert list(tmp_path.iterdir()) == []


def test_the_tokenizer_and_its_talk_come_out(chat, tmp_path):
    write(tmp_path / "model.gguf", "f32", random_model(vocab_size=330), chat, "tiny")
    _, again = open_checkpoint(tmp_path / "model.gguf")
    for text in (PROBE, "the cat sees", "<|end|> 12345"):
        assert again.guard.plain(text) == chat.guard.plain(text)
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a <|end|> 12"}]
    assert again.prompt(turns) == chat.prompt(turns)
    assert set(again.stops) == set(chat.stops) and again.end == chat.end and again.pad == chat.pad
    assert again.document("the cat") == chat.document("the cat")
    reply = [*turns, {"role": "assistant", "content": "yes"}]
    assert again.encode(reply) == chat.encode(reply)


def test_a_rule_without_a_name_is_refused(chat):
    from tokenizers import pre_tokenizers

    other = Tokenizer.from_str(chat.tokenizer.to_str())
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("e", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(ArtifactError, match="no name"):
        rule_of(other, False)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 5),
    columns=st.sampled_from([256, 512]),
    form=st.sampled_from(sorted(ggml.BLOCKS)),
    seed=st.integers(0, 99),
)
def test_blocks_hold_the_weights_within_their_step(rows, columns, form, seed):
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    data = ggml.encoded(values, form)
    assert data.shape == (rows, columns // ggml.BLOCKS[form][1] * ggml.BLOCKS[form][2])
    again = reader.quants.dequantize(data, reader.GGMLQuantizationType[form])
    bits = 8 * data.nbytes / values.numel()
    relative = np.linalg.norm(again - values.numpy()) / np.linalg.norm(values.numpy())
    assert 0 < relative < 2 ** -(bits - 2)  # half a step of a normal's four deviations, and room for scales


def test_importance_moves_the_error_to_where_it_does_not_matter():
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(64, 256, generator=draw)
    weights = torch.exp(2 * torch.randn(256, generator=draw))

    def error(data: np.ndarray) -> float:
        again = torch.from_numpy(reader.quants.dequantize(data, reader.GGMLQuantizationType.Q4_K))
        return float(((again - values).square() * weights).sum())

    assert error(ggml.encoded(values, "Q4_K", weights)) < 0.8 * error(ggml.encoded(values, "Q4_K"))


# What llama.cpp's own quantizer makes of SmolLM2-135M: 30 layers, rows of 576 and 1,536, tied embeddings.
THEIRS = {
    "q4_K_M": {"Q5_0": 166, "Q4_K": 16, "Q6_K": 14, "Q8_0": 15},
    "q6_K": {"Q8_0": 181, "Q6_K": 30},
}


@pytest.mark.parametrize("kind", THEIRS)
def test_the_mix_is_that_of_llama_cpp(kind):
    shapes = {"attn_q": (576, 576), "attn_k": (192, 576), "attn_v": (192, 576), "attn_output": (576, 576),
              "ffn_gate": (1536, 576), "ffn_up": (1536, 576), "ffn_down": (576, 1536)}  # fmt: skip
    mix = Counter(
        ggml.format_of(kind, f"blk.{layer}.{name}.weight", shape, 30, tied=True)
        for layer in range(30)
        for name, shape in shapes.items()
    )
    mix[ggml.format_of(kind, "token_embd.weight", (49152, 576), 30, tied=True)] += 1
    assert mix == THEIRS[kind]


@pytest.mark.parametrize("kind", TYPES)
def test_the_file_holds_the_mix_that_is_told(kind, chat, tmp_path):
    model = random_model(dim=96, hidden=256, head_dim=24)
    written = write(tmp_path / "model.gguf", kind, model, chat, "tiny")
    tensors = reader.GGUFReader(tmp_path / "model.gguf").tensors
    assert Counter(t.tensor_type.name for t in tensors) == written.mix
    assert written.bytes == sum(int(t.n_bytes) for t in tensors)
    assert written.parameters == sum(p.numel() for p in model.parameters())
    if kind.endswith(("K_M", "6_K")):
        assert {"Q8_0", "Q6_K"} <= set(written.mix), "rows of 96 are no k-quants, those of 256 are"


def heldout(write_documents, folder: Path) -> Path:
    for split in ("train", "heldout"):
        texts = [f"the cat sees the red ball {split} number {number}" for number in range(12)]
        write_documents(folder / split, 0, texts)
    return folder


def stage(**fields) -> ExportStage:
    return ExportStage.model_validate({"kind": "export", "model": "aligned", **fields})


def test_the_stage_measures_every_file(checkpoint, write_documents, tmp_path, monkeypatch):
    source = checkpoint("source", dim=256, head_dim=64, hidden=256)
    data = heldout(write_documents, tmp_path / "data")
    (tmp_path / "out").mkdir()
    events = []
    config = stage(types=["f32", "q8_0", "q4_K_M", "q4_0"], data="docs", items=8)
    metrics = export(config, source, data, tmp_path / "out", events.append)
    files = metrics["outputs"]
    assert [event["type"] for event in events] == list(files)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        ["Modelfile", *(f"aligned-{kind}.gguf" for kind in files)]
    )
    assert files["f32"]["kl"] == 0 and files["f32"]["top1_agreement"] == 1
    assert files["f32"]["kl"] < files["q8_0"]["kl"] < files["q4_K_M"]["kl"] < files["q4_0"]["kl"]
    assert files["q4_K_M"]["calibrated"] and not files["f32"]["calibrated"]
    for entry in files.values():
        assert entry["bits_per_byte_increase"] == entry["bits_per_byte"] - entry["bits_per_byte_before"]
        assert entry["kl"] <= entry["kl_p99"]
        assert entry["bytes"] == (tmp_path / "out" / entry["file"]).stat().st_size
    monkeypatch.setattr(
        speed, "served", lambda *asked: pytest.fail("of what breaks a bound no speed is measured")
    )
    with pytest.raises(GateError, match=r"q4_0: kl is .*`max_kl` is 1e-09"):
        export(stage(types=["q4_0"], data="docs", max_kl=1e-9), source, data, tmp_path / "out", events.append)


def test_a_model_is_itself_and_nan_passes_no_bound(checkpoint, chat, write_documents, tmp_path):
    model = random_model()
    rows = token_rows(heldout(write_documents, tmp_path) / "heldout", chat, context=64, count=5)
    assert len(rows) == 5
    same = compare(model, model, chat, rows)
    assert same.kl == 0 and same.top1_agreement == 1 and same.bits_per_byte_increase == 0
    assert same.tokens == sum(len(row.scored) for row in rows)
    broken = random_model()
    broken.model.norm.weight.data.fill_(float("nan"))
    lost = compare(model, broken, chat, rows)
    for bound in ("max_kl", "max_bits_per_byte_increase"):
        with pytest.raises(GateError):
            check(stage(data="docs", **{bound: 100}), {"f16": lost})
        check(stage(data="docs", **{bound: 100}), {"f16": same})


def test_bits_per_byte_are_those_of_the_suite(checkpoint, write_documents, tmp_path):
    """The same figure as the suite's, which sums over documents in another way."""
    from trivium.evaluate.subject import Subject
    from trivium.evaluate.suites.bits_per_byte import SUITE
    from trivium.recipe.suites import BitsPerByte

    source, data = checkpoint("source"), heldout(write_documents, tmp_path / "data")
    subject = Subject.open("source", source, "cpu")
    subject.model = subject.model.float()
    suite = BitsPerByte(kind="bits_per_byte", data="docs", items=12)
    answers = SUITE.ask(subject, SUITE.items(suite, data), suite, None)
    bits, size = (sum(answer.numbers["bits"][i] for answer in answers) for i in (0, 1))
    rows = token_rows(data / "heldout", subject.chat, context=64, count=12)
    ours = compare(subject.model, subject.model, subject.chat, rows)
    closing = len("<|end_of_text|>") * len(rows)  # which the suite gives no bytes
    total = ours.bits_per_byte * (size + closing)
    assert abs(total - bits) < 1e-3 * bits


def test_an_exported_file_is_evaluated_like_a_checkpoint(checkpoint, write_documents, chat, tmp_path):
    from trivium.evaluate.subject import Subject

    source, out = checkpoint("source"), tmp_path / "gguf"
    out.mkdir()
    export(stage(types=["f16"]), source, None, out, lambda event: None)
    theirs, ours = Subject.open("full", source, "cpu"), Subject.open("gguf", out, "cpu")
    assert ours.file_bytes().value == next(out.glob("*.gguf")).stat().st_size
    ids = chat.document("the cat sees the red ball")
    [a], [b] = (subject.log_probs([(ids, [1.0] * len(ids))]) for subject in (theirs, ours))
    assert abs(a[0] - b[0]) < 0.05 and a[1] == b[1]


def test_importance_is_the_mean_square_of_each_input(write_documents, chat, tmp_path):
    model = random_model(layers=1)
    rows = token_rows(heldout(write_documents, tmp_path) / "train", chat, context=64, count=3)
    found = importance(model, rows)
    block = model.model.layers[0]
    states = []
    for row in rows:
        x = model.embed(torch.tensor([row.ids]), torch.arange(len(row.ids))[None])
        states.append(block.input_layernorm(x)[0])
    expected = torch.cat(states).detach().square().mean(0)
    for name in ("q_proj", "k_proj", "v_proj"):
        assert torch.allclose(found[f"model.layers.0.self_attn.{name}"], expected, rtol=1e-4)
    assert found["lm_head"].shape == (32,)
    assert {gguf_write._gguf_name(name) for name in found} <= set(gguf_write.tensors(model))


def test_a_bound_without_data_is_told():
    with pytest.raises(RecipeError, match="names no stage"):
        loads("name: a\nstages:\n  b: {kind: import, path: x}\n  c: {kind: export, model: b, max_kl: 0.1}\n")


def test_what_ollama_is_told(chat):
    drawn = Generation(temperature=0.5, max_new_tokens=7)
    text = modelfile(chat, {"q8_0": {"file": "a.gguf"}, "f16": {"file": "b.gguf"}}, drawn, 64)
    lines = text.splitlines()
    assert lines[:3] == ["FROM ./a.gguf", "# FROM ./b.gguf", "PARAMETER num_ctx 64"]
    assert 'PARAMETER stop "<|end|>"' in lines and "PARAMETER temperature 0.5" in lines
    assert "{{ if .System }}<|system|>{{ .System }}<|end|>{{ else }}{{ end }}" in text
    assert '{{ if eq .Role "user" }}<|user|>{{ .Content }}<|end|>{{ if $last }}<|assistant|>{{ end }}' in text
    odd = ChatTokenizer(
        chat.tokenizer, "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}<|end|>"
    )
    assert go_template(odd) is None


def test_draws_are_in_the_file(chat, tmp_path):
    drawn = Generation(temperature=0.5, top_k=11, top_p=0.75)
    write(tmp_path / "model.gguf", "f32", random_model(), chat, "tiny", drawn)
    meta = gguf.metadata(reader.GGUFReader(tmp_path / "model.gguf"))
    assert (meta["general.sampling.temp"], meta["general.sampling.top_k"]) == (0.5, 11)
    assert meta["general.sampling.top_p"] == 0.75
    assert meta["general.name"] == "tiny"
