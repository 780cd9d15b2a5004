# ruff: noqa: E501 (tables of mistakes, one a line)
"""Every trap, by the exact mistake, with the line that it is on."""

from __future__ import annotations

import pytest

from trivium.errors import RecipeError
from trivium.recipe import traps
from trivium.recipe.load import loads

RIGHT = """\
name: tiny
stages:
  corpus:
    kind: data
    sources: [{kind: python-docs}]
  talks: {kind: data, format: conversations, sources: [{kind: python-docs}]}
  pairs: {kind: data, format: preferences, sources: [{kind: python-docs}]}
  vocab: {kind: tokenizer, data: corpus}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {dim: 64, heads: 4, layers: 2, context: 128}
    steps: 100
  chat:
    kind: sft
    init: base
    data: talks
    steps: 10
  aligned:
    kind: dpo
    init: chat
    data: pairs
    steps: 10
  safety:
    kind: evaluate
    model: aligned
    baseline: chat
    suites:
      - {kind: preferences, data: pairs}
      - {kind: refusals, data: talks}
    gates:
      refusal_rate: {min: 0.5}
  release:
    kind: release
    model: aligned
    requires: safety
"""
assert loads(RIGHT)


def changed(*pairs: str) -> str:
    """RIGHT with pairs of (old, new) exchanged; text without an old part is appended."""
    text = RIGHT
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old == "" or text.count(old) == 1, old
        text = text.replace(old, new) if old else text + new
    return text


def refuse(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        loads(text)
    return caught.value


CHAT = "init: base\n    data: talks\n"
ASKS = "  traces: {kind: synthesize, data: talks, teacher: {kind: checkpoint, model: chat}"
MISTAKES = {
    "alignment_without_init": [
        (changed("    init: chat\n", ""), "20, stage aligned, field init", "this dpo stage has no `init`", "base, chat"),
        (changed("    init: base\n", ""), "15, stage chat, field init", "this sft stage has no `init`", "base, aligned"),
    ],
    "alignment_on_base": [
        (changed("init: chat", "init: base"), "22, stage aligned, field init", "pre-trained base `base`", "allow_base: true"),
    ],
    "ppo_without_reward_model": [
        (changed("kind: dpo", "kind: ppo", "data: pairs\n    steps", "data: talks\n    steps"), "20, stage aligned, field reward_model", "no `reward_model`", "use dpo"),
    ],
    "grpo_without_reward": [
        (changed("kind: dpo", "kind: grpo", "data: pairs\n    steps", "data: talks\n    steps"), "20, stage aligned", "nothing that scores replies", "reward: reasoning"),
    ],
    "adapter_on_what_says_nothing": [
        (changed("kind: dpo", "kind: reward\n    adapter: {targets: [q_proj, lm_head]}", "    model: aligned\n    baseline: chat", "    model: chat\n    baseline: base", "    model: aligned\n    requires", "    model: chat\n    requires"), "22, stage aligned, field adapter.targets", "would never move", "leave lm_head out"),
    ],
    "best_of_what_is_not_looked_at": [
        (changed("    steps: 100\n", "    steps: 100\n    keep_best: loss\n"), "15, stage base, field keep_best", "there are none before the last step", "validate_every: 100"),
        (changed("    steps: 100\n", "    steps: 100\n    patience: 3\n"), "15, stage base, field patience", "there are none before the last step", "validate_every: 100"),
        (changed("kind: dpo", "kind: grpo\n    reward: reasoning\n    validate_every: 5\n    keep_best: loss", "data: pairs\n    steps", "data: talks\n    steps"), "24, stage aligned, field keep_best", "grpo measures rewards", "leave it out"),
    ],
    "replies_of_a_reward_model": [
        (changed("kind: dpo", "kind: reward\n    generation: {temperature: 0}", "    model: aligned\n    baseline: chat", "    model: chat\n    baseline: base", "    model: aligned\n    requires", "    model: chat\n    requires"), "22, stage aligned, field generation", "writes no replies", "leave it out"),
    ],
    "groups_do_not_divide": [
        (changed("kind: dpo", "kind: grpo\n    reward: reasoning\n    group: 5", "data: pairs\n    steps", "data: talks\n    steps"), "23, stage aligned, field group", "32 replies does not divide into groups of 5", "multiple of 5"),
    ],
    "for_documents_only": [
        (changed("format: conversations,", "format: conversations, rules: web,"), "6, stage talks, field rules", "`rules` is for documents", "stage of documents"),
        (changed("format: conversations,", "format: conversations, dedup: {lines: true},"), "6, stage talks, field dedup", "repeated lines", "leave `lines` out"),
    ],
    "without_effect": [
        (changed("steps: 100", "steps: 100\n    muon_lr: 0.02"), "15, stage base, field muon_lr", "`optimizer` is adamw", "only with `optimizer: muon`"),
        (changed("", f"{ASKS}, method: critique, accept: 0.5}}\n"), "38, stage traces, field accept", "there is no `verifier`", "only with `verifier`"),
        (changed("kind: dpo", "kind: grpo\n    reward: reasoning\n    rollout_device: cuda:1", "data: pairs\n    steps", "data: talks\n    steps"), "23, stage aligned, field rollout_device", "`staleness` is 0", "only with `staleness`"),
    ],
    "student_differs": [
        (changed("", "  words: {kind: tokenizer, data: corpus, vocab_size: 999}\n  other: {kind: pretrain, data: corpus, tokenizer: words, steps: 9}\n  small: {kind: distill, init: other, teacher: chat, data: talks, steps: 9}\n"), "40, stage small, field teacher", "different tokenizers", "same tokenizer"),
    ],
    "batch_does_not_divide_among_ranks": [
        (changed("    steps: 100\n", "    steps: 100\n    parallel: {data: 5}\n"), "15, stage base, field parallel", "batch of 32 rows cannot be shared evenly by 5 ranks", "multiple of 5"),
        (changed("    steps: 100\n", "    steps: 100\n    micro_batch: 16\n    parallel: {data: 2, shard: 2}\n"), "16, stage base, field parallel", "micro-batches of 16", "multiple of 64"),
    ],
    "heads_do_not_divide_among_ranks": [
        (changed("    steps: 100\n", "    steps: 100\n    parallel: {tensor: 3}\n"), "15, stage base, field parallel.tensor", "does not divide the model's 4 heads", "divisor of 4"),
        (changed("layers: 2,", "layers: 2, kv_heads: 2,", "    steps: 100\n", "    steps: 100\n    parallel: {tensor: 4}\n"), "15, stage base, field parallel.tensor", "2 key/value heads", "divisor of 2"),
        (changed("    steps: 100\n", "    steps: 100\n    parallel: {pipeline: 4}\n"), "15, stage base, field parallel.pipeline", "more stages than the model's 2 layers", "at most 2"),
    ],
    "z_loss_over_a_pipeline": [
        (changed("    steps: 100\n", "    steps: 100\n    z_loss: 1e-4\n    parallel: {pipeline: 2}\n"), "15, stage base, field z_loss", "softmax's denominators", "`pipeline`"),
    ],
    "row_does_not_divide_among_ranks": [
        (changed("    steps: 100\n", "    steps: 100\n    parallel: {context: 3}\n"), "15, stage base, field parallel.context", "does not divide rows of 128 tokens", "divisor of 128"),
    ],
    "phase_cannot_be_cut": [
        (changed("    data: pairs\n    steps: 10\n", "    data: pairs\n    steps: 10\n    parallel: {context: 2}\n"), "25, stage aligned, field parallel.context", "compares whole replies", "shard"),
    ],
    "experts_do_not_divide_among_ranks": [
        (changed("heads: 4", "heads: 4, moe: {experts: 4}", "    steps: 100\n", "    steps: 100\n    parallel: {data: 2, expert: 4}\n"), "15, stage base, field parallel.expert", "does not divide the 2 `data` ranks", "divisor of 2"),
        (changed("heads: 4", "heads: 4, moe: {experts: 4}", "    steps: 100\n", "    batch: 33\n    steps: 100\n    parallel: {data: 3, expert: 3}\n"), "16, stage base, field parallel.expert", "does not divide the 4 experts", "divisor of 4"),
        (changed("    steps: 100\n", "    steps: 100\n    parallel: {data: 2, expert: 2}\n"), "15, stage base, field parallel.expert", "which this model is not", "`moe:`"),
    ],
    "experts_shared_in_another_layout": [
        (changed("heads: 4", "heads: 4, moe: {experts: 4}", "    steps: 100\n", "    steps: 100\n    parallel: {data: 2, expert: 2, tensor: 2}\n"), "15, stage base, field parallel.expert", "not with `tensor`", "`shard` splits"),
        (changed("heads: 4", "heads: 4, moe: {experts: 4}", "    steps: 100\n", "    steps: 100\n    parallel: {data: 2, expert: 2, shard: 2}\n"), "15, stage base, field parallel.expert", "not with `shard`", "`data` ranks"),
    ],
    "ranks_do_not_divide_among_nodes": [
        (changed("    steps: 100\n", "    steps: 100\n    parallel: {data: 4}\n    launch: {kind: slurm, nodes: 3}\n"), "16, stage base, field launch.nodes", "do not spread evenly over 3 nodes", "divisor of 4"),
    ],
    "devices_of_auto": [
        (changed("    steps: 100\n", "    steps: 100\n    parallel: auto\n    launch: {kind: slurm}\n"), "16, stage base, field launch", "does not say what devices", "on: 64xH100"),
        (changed("    steps: 100\n", "    steps: 100\n    parallel: {data: 2}\n    launch: {on: 2xH100}\n"), "16, stage base, field launch.on", "names its layout", "parallel: auto"),
    ],
    "no_sources": [
        (changed("    sources: [{kind: python-docs}]\n", ""), "3, stage corpus, field sources", "no sources", "python-docs"),
        (changed("    sources: [{kind: python-docs}]\n", "    sources: []\n"), "5, stage corpus, field sources", "no sources", "python-docs"),
    ],
    "mix_without_weights": [
        (
            changed("    sources: [{kind: python-docs}]\n", "    sources:\n      - {kind: python-docs, weight: 1}\n      - {kind: reasoning}\n"),
            "7, stage corpus, field sources[1]", "reasoning has no weight in a mix of 2", "weight: ...",
        ),
    ],
    "source_without_format": [
        (changed("format: conversations, sources: [{kind: python-docs}]", "format: conversations, sources: [{kind: text, path: a}]"), "6, stage talks, field sources[0]", "text cannot give conversations, only documents", "format"),
        (changed("    sources: [{kind: python-docs}]\n", "    sources: [{kind: refusals}]\n"), "5, stage corpus, field sources[0]", "refusals cannot give documents", "format"),
    ],
    "synthetic_of_another_format": [
        (changed("    sources: [{kind: python-docs}]\n", "    sources: [{kind: synthetic, stage: talks}]\n"), "5, stage corpus, field sources[0]", "`talks` that it reads holds conversations", "name a stage with documents"),
    ],
    "unverified": [
        (changed("", f"{ASKS}, method: cot}}\n"), "38, stage traces, field method", "cot has no verifier", "kind: reasoning"),
        (changed("", f"{ASKS}, method: preferences}}\n"), "38, stage traces, field method", "nothing to choose", "kind: judge"),
        (changed("", f"{ASKS}, method: cot, verifier: {{kind: exact}}, temperature: 0}}\n"), "38, stage traces, field temperature", "4 times the same", "0.8"),
        (changed("", f"{ASKS}, method: preferences, verifier: {{kind: exact}}, samples: 1}}\n"), "38, stage traces, field samples", "needs two replies", "samples: 4"),
    ],
    "wrong_format": [
        (changed("data: corpus\n    tokenizer", "data: talks\n    tokenizer"), "11, stage base, field data", "pretrain needs documents, and `talks` holds conversations", "corpus"),
        (changed("{kind: tokenizer, data: corpus}", "{kind: tokenizer, data: pairs}"), "8, stage vocab, field data", "tokenizer needs documents", "corpus"),
        (changed("data: talks\n    steps", "data: corpus\n    steps"), "18, stage chat, field data", "sft needs conversations, and `corpus` holds documents", "talks"),
        (changed("data: pairs\n    steps", "data: talks\n    steps"), "23, stage aligned, field data", "dpo needs preferences", "pairs"),
        (changed("", f"{ASKS}, method: critique}}\n".replace("talks", "corpus")), "38, stage traces, field data", "synthesize needs conversations or preferences", "talks"),
        (changed("", f"{ASKS}, method: critique}}\n  more: {{kind: dpo, init: chat, data: traces, steps: 5}}\n"), "39, stage more, field data", "`traces` holds conversations", "pairs"),
        (changed("{kind: preferences, data: pairs}", "{kind: preferences, data: talks}"), "30, stage safety, field suites[0].data", "suite preferences needs preferences", "pairs"),
        (changed("{kind: refusals, data: talks}", "{kind: refusals, data: corpus}"), "31, stage safety, field suites[1].data", "suite refusals needs conversations", "talks"),
    ],
    "evaluated_without_heldout": [
        (changed("preferences, sources: [{kind: python-docs}]", "preferences, heldout: 0, sources: [{kind: refusals}]"), "30, stage safety, field suites[0].data", "`pairs` holds nothing out", "heldout: 0.05"),
    ],
    "nothing_to_train_on": [
        (changed("preferences, sources: [{kind: python-docs}]", "preferences, heldout: 1, sources: [{kind: refusals}]"), "23, stage aligned, field data", "everything out", "lower"),
    ],
    "heldout_differs": [
        (
            changed("    sources: [{kind: python-docs}]\n", "    sources: [{kind: python-docs}]\n    decontaminate: [held]\n", "", "  held: {kind: data, heldout: 0.2, sources: [{kind: python-docs}]}\n"),
            "6, stage corpus, field decontaminate[0]", "`corpus` and `held` both read python-docs but hold out different shares (0.05 and 0.2)", "same `heldout`",
        ),
        (
            changed("{kind: refusals, data: talks}", "{kind: refusals, data: held}", "", "  held: {kind: data, format: conversations, heldout: 0.2, sources: [{kind: python-docs}]}\n"),
            "31, stage safety, field suites[1].data", "different shares", "same `heldout`",
        ),
    ],
    "tokenizer_differs": [
        (changed(CHAT, CHAT + "    tokenizer: other\n", "", "  other: {kind: tokenizer, data: corpus}\n"), "19, stage chat, field tokenizer", "`other` is not the one", "remove"),
    ],
    "pretrain_init_differs": [
        (changed("", "  more: {kind: pretrain, init: base, data: corpus, tokenizer: other, model: {dim: 64, heads: 4, layers: 2, context: 128}, steps: 1}\n  other: {kind: tokenizer, data: corpus}\n"), "38, stage more, field tokenizer", "tokenizer `vocab`", "tokenizer: vocab"),
        (changed("", "  more: {kind: pretrain, init: base, data: corpus, tokenizer: vocab, model: {dim: 64, heads: 4, layers: 3, context: 128}, steps: 1}\n"), "38, stage more, field model", "layers 2 there, 3 here", "repeat"),
    ],
    "release_without_requires": [
        (changed("    requires: safety\n", ""), "34, stage release, field requires", "requires no evaluation", "here: safety"),
    ],
    "release_of_untested_model": [
        (changed("model: aligned\n    requires", "model: chat\n    requires"), "37, stage release, field requires", "no required stage tested the released model `chat` (tested: aligned)", "model: chat"),
    ],
    "release_without_gates": [
        (changed("    gates:\n      refusal_rate: {min: 0.5}\n", ""), "35, stage release, field requires", "no gates", "gates"),
    ],
    "unknown_reference": [
        (changed("init: chat", "init: chatt"), "22, stage aligned, field init", "no stage `chatt`", "did you mean `chat`? stages that fit here: base, chat"),
        (changed("requires: safety", "requires: [safety, more]"), "37, stage release, field requires[1]", "no stage `more`", "safety"),
        (changed("{kind: refusals, data: talks}", "{kind: refusals, data: talk}"), "31, stage safety, field suites[1].data", "no stage `talk`", "`talks`?"),
    ],
    "wrong_kind_of_stage": [
        (changed("requires: safety", "requires: [safety, chat]"), "37, stage release, field requires[1]", "`chat` is a sft stage, and this field needs a stage of kind evaluate", "safety"),
        (changed("init: base", "init: vocab"), "17, stage chat, field init", "`vocab` is a tokenizer stage, and this field needs a checkpoint", "base"),
        (changed("tokenizer: vocab", "tokenizer: corpus"), "12, stage base, field tokenizer", "needs a stage of kind tokenizer", "vocab"),
        (changed("data: talks\n    steps", "data: vocab\n    steps"), "18, stage chat, field data", "needs a stage of kind synthesize or data", "corpus"),
        (changed("init: chat", "init: small", "", "  small: {kind: quantize, model: chat}\n"), "22, stage aligned, field init", "quantized weights cannot be trained", "chat"),
        (changed("", "  small: {kind: quantize, model: smaller}\n  smaller: {kind: quantize, model: chat}\n"), "38, stage small, field model", "`smaller` is quantized", "chat"),
    ],
    "password_in_an_address": [
        (changed("", "  more: {kind: data, sources: [{kind: jsonl, path: 's3://me:hunter2@bucket/a.jsonl'}]}\n"), "38, stage more, field sources[0].path", "an address with a password", "AWS_PROFILE"),
        (changed("", "  more: {kind: data, sources: [{kind: jsonl, path: 'https://hunter2@e.org/a.jsonl'}]}\n"), "38, stage more, field sources[0].path", "an address with a password", "leave it out"),
        (changed("", "  more: {kind: data, sources: [{kind: jsonl, path: 'https://e.org/a.jsonl?v=1&X-Amz-Signature=hunter2'}]}\n"), "38, stage more, field sources[0].path", "a signature", "leave it out"),
    ],
    "key_itself": [
        (changed("", "  traces: {kind: synthesize, data: talks, method: critique, teacher: {kind: openai, url: 'http://e.org/v1', model: m, key: sk-hunter2}}\n"), "38, stage traces, field teacher.key", "is it the key itself?", "key: MY_KEY"),
    ],
    "self_reference": [
        (changed("init: chat", "init: aligned"), "22, stage aligned, field init", "refers to itself", "before it"),
    ],
    "cycle": [
        (changed("init: base", "init: aligned"), "22, stage aligned, field init", "chat -> aligned -> chat", "before it"),
    ],
    "no_duration": [
        (changed("    steps: 100\n", ""), "9, stage base", "given nowhere", "tokens: 3M"),
        (changed("    steps: 100\n", "    steps: 100\n    epochs: 2\n"), "15, stage base, field epochs", "as steps and epochs", "exactly one"),
    ],
    "float8_where_it_cannot_be": [
        (changed("steps: 100", "steps: 100\n    precision: float8\n    device: cpu"), "15, stage base, field precision", "`device: cpu`", "bf16"),
        (changed("steps: 100", "steps: 100\n    precision: float8\n    parallel: {tensor: 2}"), "15, stage base, field precision", "`tensor`", "`shard`"),
        (changed("init: chat", "init: chat\n    precision: float8\n    adapter: {rank: 4}"), "23, stage aligned, field precision", "an adapter", "bf16"),
    ],
    "muon_on_split_matrices": [
        (changed("steps: 100", "steps: 100\n    optimizer: muon\n    parallel: {shard: 2}"), "15, stage base, field optimizer", "whole matrices", "`data`"),
    ],
    "heads_do_not_divide": [
        (changed("heads: 4", "heads: 5"), "13, stage base, field model.heads", "dim 64 is not divisible by 5 heads", "4"),
        (changed("dim: 64, heads: 4", "dim: 36, heads: 4"), "13, stage base, field model.heads", "9 wide", "even"),
    ],
    "kv_heads_do_not_divide": [
        (changed("heads: 4", "heads: 4, kv_heads: 3"), "13, stage base, field model.kv_heads", "4 heads cannot share 3", "1, 2, 4"),
    ],
    "context_too_long": [
        (changed("steps: 100", "steps: 100\n    context: 256"), "15, stage base, field context", "256 tokens exceed the model's context of 128", "`base`"),
        (changed("data: pairs\n    steps: 10", "data: pairs\n    steps: 10\n    context: 129"), "25, stage aligned, field context", "129 tokens", "`base`"),
    ],
    "batch_does_not_divide": [
        (changed("steps: 100", "steps: 100\n    micro_batch: 12"), "15, stage base, field micro_batch", "32 rows cannot be made of micro-batches of 12", "such as 8"),
    ],
    "step_in_tokens": [
        (changed("steps: 100", "steps: 100\n    batch: 3M"), "15, stage base, field batch", "3,000,000 rows of 128 tokens", "3,000,000 tokens a step are `batch: 23438`"),
        (changed("steps: 100", "steps: 100\n    batch: 3000000\n    micro_batch: 16\n    parallel: {data: 3}"), "15, stage base, field batch", "384,000,000 tokens", "`batch: 23424`"),
        (changed("data: pairs\n    steps: 10", "data: pairs\n    steps: 10\n    batch: 2M"), "25, stage aligned, field batch", "2,000,000 rows of 256 tokens", "`batch: 7812`"),
    ],
    "more_tokens_than_there_are": [
        (changed("steps: 100", "tokens: 1e18"), "14, stage base, field tokens", "1e+18 tokens are more than there are", "36T"),
        (changed("steps: 100", "steps: 1e15"), "14, stage base, field steps", "tokens are more than there are", "36T"),
    ],
    "shorter_than_one_batch": [
        (changed("steps: 100", "tokens: 4095"), "14, stage base, field tokens", "4,095 tokens are fewer than one batch (32 rows x 128 tokens = 4,096)", "lower `batch`"),
        (changed("data: talks\n    steps: 10", "data: talks\n    tokens: 1K"), "19, stage chat, field tokens", "1,000 tokens are fewer", "lower `batch`"),
    ],
    "mup_with_what_granite_has_not": [
        (changed("heads: 4", "heads: 4, mup: true, qk_norm: true"), "13, stage base, field model.mup", "`mup` and `qk_norm`", "leave one"),
        (changed("heads: 4", "heads: 4, mup: true, moe: {experts: 4}"), "13, stage base, field model.mup", "`mup` and `moe`", "leave one"),
    ],
    "more_choices_than_experts": [
        (changed("heads: 4", "heads: 4, moe: {experts: 4, top_k: 5}"), "13, stage base, field model.moe.top_k", "5 of 4 experts", "at most 4"),
        (changed("heads: 4", "heads: 4, moe: {experts: 4, dense: 2}"), "13, stage base, field model.moe.dense", "2 dense layers leave no layer", "2 layers"),
    ],
    "adapter_without_init": [
        (changed("steps: 100", "steps: 100\n    adapter: {rank: 4}"), "15, stage base, field adapter", "trains an adapter, and has no `init`", "name a checkpoint"),
    ],
    "adapter_on_split_matrices": [
        (changed("init: chat", "init: chat\n    adapter: {rank: 4}\n    parallel: {tensor: 2}"), "24, stage aligned, field parallel.tensor", "adapters cannot be trained with `tensor: 2`", "`shard`"),
        (changed("init: base", "init: base\n    adapter: {rank: 4}\n    parallel: {pipeline: 2}"), "19, stage chat, field parallel.pipeline", "`pipeline: 2`", "`data`"),
    ],
    "rising_and_falling_at_once": [
        (changed("init: base", "init: base\n    schedule: wsd\n    warmup: 0.7\n    decay: 0.5"), "19, stage chat, field warmup", "rises in the first 0.7 of the steps and falls in the last 0.5", "`warmup: 0.5` or less"),
    ],
    "tokenizer_not_imported": [
        (changed("init: base", "init: theirs\n    tokenizer: vocab", "", "  theirs: {kind: import, path: x.gguf}\n"), "18, stage chat, field tokenizer", "`vocab` is not the one that came with `theirs`", "tokenizer: theirs"),
        (changed("tokenizer: vocab\n", "tokenizer: vocab\n    init: theirs\n", "", "  theirs: {kind: import, path: x.gguf}\n"), "12, stage base, field tokenizer", "came with `theirs`", "tokenizer: theirs"),
    ],
    "no_canaries": [
        (changed("    gates:", "      - {kind: canaries, data: corpus}\n    gates:"), "32, stage safety, field suites[2].data", "`corpus` plants none", "canaries: {count: 8}"),
    ],
    "no_suites": [
        (changed("", "  more: {kind: evaluate, model: chat, suites: []}\n"), "38, stage more, field suites", "measures nothing", "bits_per_byte"),
    ],
    "gate_on_nothing": [
        (changed("refusal_rate", "refusalrate"), "33, stage safety, field gates.refusalrate", "measures `refusalrate`", "`refusal_rate`?"),
        (changed("refusal_rate", "bits_per_byte"), "33, stage safety, field gates.bits_per_byte", "no suite", "add the suite"),
    ],
    "gate_that_cannot_pass": [
        (changed("{min: 0.5}", "{min: 0.5, max: 0.4}"), "33, stage safety, field gates.refusal_rate", "at least 0.5 and at most 0.4", "exchange"),
    ],
    "gate_of_no_side": [
        (changed("refusal_rate: {min: 0.5}", "file_bytes: {no_worse_than_baseline: 0.1}"), "33, stage safety, field gates.file_bytes", "has no items to compare", "write `min` or `max`"),
        (changed("refusal_rate: {min: 0.5}", "declined: {no_worse_than_baseline: 0.1}", "      - {kind: refusals, data: talks}\n", "      - {kind: refusals, data: talks}\n      - {kind: drift, data: talks}\n"), "34, stage safety, field gates.declined", "has no better side", "write `min` or `max`"),
        (changed("refusal_rate: {min: 0.5}", "win_rate: {no_worse_than_baseline: 0.1}"), "33, stage safety, field gates.win_rate", "compares with the baseline itself", "write `min` or `max`"),
    ],
    "one_of_many_files": [
        (changed("    baseline: chat\n", "    baseline: chat\n    compare: [files]\n", "", "  files: {kind: export, model: aligned, types: [f16, q8_0]}\n"), "29, stage safety, field compare[0]", "`files` writes 2 files", "give f16, q8_0 a stage each"),
    ],
    "two_of_a_name": [
        (changed("    gates:", "      - {kind: preferences, data: pairs}\n    gates:"), "32, stage safety, field suites[2]", "two suites of this stage are called `preferences`", "give one a `name`"),
    ],
    "the_same_twice": [
        (changed("    gates:", "      - {kind: preferences, data: pairs, name: again}\n    gates:"), "32, stage safety, field suites[2]", "`again` asks what `preferences` asks", "leave one out"),
    ],
    "comparison_without_baseline": [
        (changed("    baseline: chat\n", ""), "25, stage safety, field baseline", "has no `baseline`", "sft"),
        (changed("baseline: chat", "baseline: aligned"), "28, stage safety, field baseline", "is its own `baseline`", "sft"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "where", "what", "fix"),
    [
        pytest.param(*case, id=f"{trap}-{i}")
        for trap, cases in MISTAKES.items()
        for i, case in enumerate(cases)
    ],
)
def test_trap(text: str, where: str, what: str, fix: str) -> None:
    error = refuse(text)
    assert error.where == f"recipe.yaml:{where}", str(error)
    assert what in error.what
    assert fix in error.fix


def test_every_trap_has_its_mistake() -> None:
    names = {trap.__name__ for trap in traps.TRAPS}
    assert names == set(MISTAKES)


def test_orpo_and_those_who_mean_it_may_start_from_a_base() -> None:
    assert loads(changed("kind: dpo", "kind: orpo", "init: chat", "init: base"))
    assert loads(changed("init: chat", "init: base\n    allow_base: true"))
    assert (
        "base"
        in refuse(changed("kind: dpo", "kind: orpo\n    allow_base: false", "init: chat", "init: base")).what
    )


def test_that_a_kind_is_not_built_is_said_last() -> None:
    wrong = changed("", "  judge: {kind: reward, data: pairs, steps: 9}\n")
    assert "has no `init`" in refuse(wrong).what
    assert "cannot run yet" not in str(refuse(wrong))


def test_a_test_set_of_its_own_may_hold_everything_out() -> None:
    own = "  held: {kind: data, format: conversations, heldout: 1, sources: [{kind: refusals}]}\n"
    assert loads(changed("{kind: refusals, data: talks}", "{kind: refusals, data: held}", "", own))


def test_several_traps_are_reported_together() -> None:
    error = refuse(changed("    init: chat\n", "", "heads: 4", "heads: 5"))
    assert "2 mistakes" in error.what
    assert "recipe.yaml:20, stage aligned, field init" in error.what
    assert "recipe.yaml:13, stage base, field model.heads" in error.what


def test_a_recipe_made_in_python_is_checked_without_lines() -> None:
    recipe = loads(RIGHT)
    wrong = recipe.model_copy(update={"stages": {k: v for k, v in recipe.stages.items() if k != "chat"}})
    with pytest.raises(RecipeError, match="there is no stage `chat`") as caught:
        traps.check(wrong)
    assert "stage aligned, field init" in str(caught.value)
