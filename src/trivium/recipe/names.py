"""What fields are called elsewhere, and what they were called here before: so that a message names the right one."""

from __future__ import annotations

from collections.abc import Iterable

from trivium.recipe.lines import nearest

# Names that other tools use for what is called differently here.
_ELSEWHERE = {
    "learning_rate": "lr", "batch_size": "batch", "micro_batch_size": "micro_batch", "max_steps": "steps",
    "num_epochs": "epochs", "num_train_epochs": "epochs", "grad_clip": "max_grad_norm",
    "epsilon": "clip_epsilon", "cliprange": "clip_epsilon", "epsilon_high": "clip_epsilon_high", "num_generations": "group",
    "warmup_ratio": "warmup", "seq_len": "context", "max_length": "context", "max_seq_len": "context",
    "hidden_size": "dim", "d_model": "dim", "n_embd": "dim", "num_layers": "layers", "n_layers": "layers",
    "n_layer": "layers", "num_hidden_layers": "layers", "n_heads": "heads", "num_heads": "heads",
    "n_head": "heads",
    "num_attention_heads": "heads", "num_key_value_heads": "kv_heads", "n_kv_heads": "kv_heads",
    "intermediate_size": "hidden", "dataset": "data", "datasets": "data", "checkpoint": "init",
    "base_model": "init", "from": "init", "type": "kind", "dtype": "precision", "lambda": "beta",
}  # fmt: skip

# Names that fields and metrics had here before.
_BEFORE = {
    "clip": ("clip_epsilon", "max_grad_norm"), "clip_high": ("clip_epsilon_high",), "lam": ("gae_lambda",),
    "correction": ("importance_weight_cap",), "sampler": ("rollout_server",), "win_rate": ("beats_rejected",),
}  # fmt: skip


def meant(key: str, valid: Iterable[str]) -> str:
    """What somebody who wrote `key` meant among `valid`, to be followed by a list of them; empty if nothing is near."""
    valid = list(valid)
    if now := [name for name in _BEFORE.get(key, ()) if name in valid]:
        return f"`{key}` is now {' and '.join(f'`{name}`' for name in now)}; "
    known = _ELSEWHERE.get(key.lower())
    return f"did you mean `{known}`? " if known in valid else nearest(key, valid)
