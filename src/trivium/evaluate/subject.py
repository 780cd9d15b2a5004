"""A model under test: its weights, its tokenizer, and the two things that suites ask of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trivium.generate.engine import generate
from trivium.generate.sampling import SamplingParams
from trivium.model.hf import WEIGHTS, load
from trivium.model.transformer import Transformer
from trivium.text.chat import ChatTokenizer, Message
from trivium.train.machine import native_bf16
from trivium.verify.replies import Reply


@dataclass
class Subject:
    """A checkpoint as it would be served: bf16 where the machine computes it natively."""

    name: str
    folder: Path
    model: Transformer
    chat: ChatTokenizer

    @classmethod
    def open(cls, name: str, folder: Path, device: str) -> Subject:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if native_bf16(device) else torch.float32
        return cls(name, folder, load(folder, dtype=dtype, device=device).eval(), ChatTokenizer.load(folder))

    @property
    def device(self) -> str:
        return self.model.output_weight.device.type

    def reply(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> list[Reply]:
        """A greedy reply to each conversation. A prompt that fills the context gets an empty, unfinished one."""
        prompts = [self.chat.prompt(messages) for messages in conversations]
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) < self.model.config.context]
        stop = self.chat.stops
        sampling = SamplingParams(max_new_tokens=max_new_tokens)
        replies = generate(self.model, [prompts[i] for i in fits], sampling, stop)
        result = [Reply("", finished=False)] * len(prompts)
        for i, ids in zip(fits, replies, strict=True):
            room = min(max_new_tokens, self.model.config.context - len(prompts[i]))
            result[i] = Reply(self.chat.decode(ids), finished=len(ids) < room)
        return result

    def file_bytes(self) -> int:
        """Size of the weights on disk."""
        return (self.folder / WEIGHTS).stat().st_size

    def tokens_per_second(self, tokens: int = 64, repeats: int = 3) -> float:
        """Decoding speed of a single greedy stream, the fastest of `repeats` runs of `tokens` tokens; nothing stops early."""
        prompt = self.chat.prompt([{"role": "user", "content": "What does a list do?"}])
        tokens = min(tokens, self.model.config.context - len(prompt))
        best = float("inf")
        for _ in range(repeats):
            started = time.perf_counter()
            generate(self.model, [prompt], SamplingParams(max_new_tokens=tokens), stop=())
            best = min(best, time.perf_counter() - started)
        return tokens / best
