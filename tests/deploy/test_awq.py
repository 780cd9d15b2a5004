"""AWQ: scales that an independent search finds, folds that change no logits, and a smaller error of products and of the model."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from random_models import random_model
from test_int4 import SHAPE, TEXTS, correlated, stage

from trivium.deploy import awq, int4, quantize
from trivium.deploy.calibrate import watched
from trivium.text.chat import ChatTokenizer


def uneven(tokens: int, width: int) -> torch.Tensor:
    """Inputs of which a few channels are much larger than the others, as in language models."""
    sizes = torch.ones(width, dtype=torch.float64)
    sizes[:: width // 6] = 12
    return correlated(tokens, width) * sizes


def found(weights: list[torch.Tensor], x: torch.Tensor, group: int) -> torch.Tensor:
    return awq.scales(
        [weight.double() for weight in weights],
        awq.Seen.none(x.shape[1]).plus(x),
        x.abs().mean(0),
        lambda weight: int4.nearest(weight, group).floats(),
    )


def test_the_scales_are_those_that_torchao_finds():
    """Its observer multiplies the inputs themselves; only the rounding is ours."""
    torchao = pytest.importorskip("torchao.prototype.awq.core")

    class OurRounding(torchao.AOBaseConfig):
        pass

    def handler(module, config):
        return SimpleNamespace(weight=int4.nearest(module.weight, 32).floats().double())

    torchao._QUANTIZE_CONFIG_HANDLER[OurRounding] = handler
    weight = torch.randn(24, 96, generator=torch.Generator().manual_seed(1)).double()
    for x in (uneven(500, 96), correlated(500, 96)):
        observer = torchao.AWQObserver(weight, None, OurRounding())
        observer(x, None)
        theirs = observer.calculate_qparams()
        assert torch.allclose(found([weight], x, 32), theirs, rtol=1e-9)
    assert found([weight], uneven(500, 96), 32).std() > 0.05


def test_layers_that_read_the_same_share_the_scales_that_are_best_for_all():
    """Searched again, written out with products of the inputs."""
    x = uneven(300, 64)
    draw = torch.Generator().manual_seed(2)
    weights = [torch.randn(rows, 64, generator=draw).double() for rows in (8, 40)]
    best = (float("inf"), torch.ones(64))
    for step in range(20):
        s = x.abs().mean(0) ** (step / 20)
        s /= (s.max() * s.min()) ** 0.5
        error = sum(
            (((int4.nearest(w * s, 16).floats().double()) @ (x / s).T - w @ x.T) ** 2).sum() for w in weights
        )
        best = min(best, (float(error), s), key=lambda pair: pair[0])
    assert torch.allclose(found(weights, x, 16), best[1], rtol=1e-9)


def test_large_channels_lose_less():
    x = uneven(3000, 192)
    seen, unseen = x[:2000], x[2000:]
    weight = torch.randn(64, 192, generator=torch.Generator().manual_seed(1)).double()
    s = found([weight], seen, 32)

    def error(rounded: torch.Tensor) -> float:
        return float(((rounded.double() - weight) @ unseen.T).square().mean().sqrt())

    assert error(int4.nearest(weight * s, 32).floats() / s) < 0.8 * error(int4.nearest(weight, 32).floats())


def read_by(layers: dict[str, torch.nn.Linear], call: Callable[[], object]) -> dict[str, awq.Seen]:
    inputs = {name: awq.Seen.none(layer.in_features) for name, layer in layers.items()}

    def add(name: str, x: torch.Tensor) -> None:
        inputs[name] = inputs[name].plus(x)

    with watched(layers, add):
        call()
    return inputs


@pytest.mark.parametrize(
    "shape",
    [
        {}, {"qkv_bias": True, "mlp_bias": True}, {"qk_norm": True}, {"kv_heads": 4}, {"norms": "both"}, {"norms": "post"},
        {"gated": False, "activation": "gelu", "layer_norm": True},
    ],
    ids=["llama", "biases", "qk_norm", "no groups", "gemma", "olmo", "without a gate"],
)  # fmt: skip
def test_folding_changes_no_logits(shape):
    """Norms of the model are in bf16 afterwards, as they are saved, and nothing is lost by that."""
    model = random_model(**shape)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.copy_((1 + torch.randn(parameter.shape, generator=draw) / 4).bfloat16())
    tokens = torch.randint(0, 320, (2, 40), generator=draw)
    batch = {"tokens": tokens, "positions": torch.arange(40).expand(2, 40)}
    with torch.no_grad():
        before = model(batch, {"logits"}).logits
        folded = 0
        for block in model.model.layers:
            layers = {n: m for n, m in block.named_modules() if isinstance(m, torch.nn.Linear)}
            inputs = read_by(layers, lambda: model(batch, {"logits"}))
            weights = {name: layer.weight.clone() for name, layer in layers.items()}
            awq.fold(block, layers, inputs, 80, lambda weight: int4.nearest(weight, 8).floats())
            folded += sum(not torch.equal(weights[name], layer.weight) for name, layer in layers.items())
            for name, now in read_by(layers, lambda: model(batch, {"logits"})).items():
                assert torch.allclose(now.size, inputs[name].size, rtol=1e-4)
                assert torch.allclose(now.hessian, inputs[name].hessian, rtol=1e-3, atol=1e-3)
        after = model(batch, {"logits"}).logits
    assert folded
    assert (after - before).abs().max() < 1e-4 * before.abs().max()
    norms = [block.input_layernorm.weight for block in model.model.layers if block.before]
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in norms)


@pytest.fixture
def data(write_documents, tmp_path):
    for split in ("train", "heldout"):
        write_documents(tmp_path / "data" / split, 0, [f"{text} {split}" for text in TEXTS])
    return tmp_path / "data"


def test_awq_keeps_more_of_the_model_than_rounding_and_is_read_by_transformers(checkpoint, data, tmp_path):
    transformers = pytest.importorskip("transformers")
    source = checkpoint("source", **SHAPE)
    _make_uneven(source)
    outputs = {}
    for method in ("nearest", "awq", "awq-gptq"):
        config = stage(method=method, data="docs", items=24)
        [outputs[method]] = quantize.run(config, source, data, tmp_path / method, lambda event: None)[
            "outputs"
        ].values()
    assert outputs["awq"]["kl"] < 0.8 * outputs["nearest"]["kl"]
    assert outputs["awq-gptq"]["kl"] < 0.8 * outputs["awq"]["kl"]
    assert outputs["awq"]["calibrated"] and outputs["awq"]["bytes"] == outputs["nearest"]["bytes"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "awq", dtype=torch.float32).eval()
    ours = quantize.load(tmp_path / "awq").eval()
    tokens = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(0))
    batch = {"tokens": tokens, "positions": torch.arange(40).expand(2, 40)}
    with torch.no_grad():
        assert (ours(batch, {"logits"}).logits - theirs(tokens).logits).abs().max() < 1e-4


def _make_uneven(folder) -> None:
    """A few channels of each norm a dozen times larger, as in trained models, and what reads them as much smaller."""
    chat, model = ChatTokenizer.load(folder), quantize.load(folder)
    with torch.no_grad():
        for block in model.model.layers:
            for norm in (block.input_layernorm, block.post_attention_layernorm):
                norm.weight[::16] = 12
    quantize.save(model, folder, eos=chat.end, pad=chat.pad)


@pytest.mark.parametrize("method", ["awq", "awq-gptq"])
def test_awq_without_data_is_told(method):
    with pytest.raises(ValueError, match=f"{method} goes by the inputs"):
        stage(method=method)
