"""Talk to one or two checkpoints of the runs, side by side: the same question to both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from nicegui import ui

from trivium.errors import TriviumError
from trivium.recipe.network import Generation
from trivium.report.runs import runs
from trivium.ui.parts import Place, frame
from trivium.ui.trace_parts import trace

KEPT = 2
"""Models in memory at once."""


def register(place: Place) -> None:
    @ui.page("/chat", title="Trivium: chat")
    def chat() -> None:
        frame("Chat")
        _page(place)


def checkpoints(place: Place) -> dict[str, str]:
    """Path -> RUN/STAGE of every model that can be talked to."""
    return {
        str(link): f"{run.name}/{link.name}"
        for run in runs(place.runs)
        for link in sorted(run.iterdir())
        if (link / "config.json").is_file() and (link / "tokenizer.json").is_file()
    }


@lru_cache(KEPT)
def _opened(path: str, resolved: str) -> Any:
    """The model behind a link, as long as the link leads to the same artifact."""
    from trivium.imports import open_checkpoint
    from trivium.model import generation

    model, tokenizer, *_ = open_checkpoint(Path(path))
    return model, tokenizer, generation.read(Path(path)) or Generation()


def reply(path: str, messages: list[dict[str, str]], seed: int, stopped: threading.Event) -> Iterator[str]:
    """The reply of a checkpoint in pieces, drawn as its generation_config.json says, until it ends or is stopped."""
    from trivium.generate.engine import stream
    from trivium.generate.sampling import SamplingParams
    from trivium.talk import fitted

    model, tokenizer, drawn = _opened(path, str(Path(path).resolve()))
    kept, _ = fitted(tokenizer, messages, model.config.context, drawn.max_new_tokens)
    for piece in stream(model, tokenizer, kept, SamplingParams(**drawn.model_dump(), seed=seed)):
        if stopped.is_set():
            return
        yield piece


async def _pieces(
    path: str, messages: list[dict[str, str]], seed: int, stopped: threading.Event
) -> AsyncIterator[str]:
    """`reply` in a thread of its own, so that the pages go on answering."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def write() -> None:
        try:
            for piece in reply(path, messages, seed, stopped):
                loop.call_soon_threadsafe(queue.put_nowait, piece)
        except TriviumError as error:
            loop.call_soon_threadsafe(queue.put_nowait, f"[{error}]")
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    threading.Thread(target=write, daemon=True).start()
    while (piece := await queue.get()) is not None:
        yield piece


def _page(place: Place) -> None:
    models = checkpoints(place)
    if not models:
        ui.label("No checkpoint is there yet.")
        return
    newest = next(iter(models))
    said: dict[int, list[dict[str, str]]] = {0: [], 1: []}
    stopped = threading.Event()
    with ui.row().classes("w-full no-wrap"):
        sides = []
        for side in (0, 1):
            with ui.column().classes("w-1/2"):
                start = newest if side == 0 else None
                choice = ui.select(
                    models, value=start, label="model" if side == 0 else "beside it", clearable=side == 1
                )
                choice.classes("w-full")
                sides.append((choice, ui.column().classes("w-full")))
    with ui.row().classes("w-full items-center"):
        question = ui.input("question").classes("grow")
        ask = ui.button("Ask")
        ui.button("Stop", on_click=stopped.set).props("flat")
        ui.button("New", on_click=lambda: _new(said, sides)).props("flat")

    async def answer(side: int, text: str) -> None:
        choice, area = sides[side]
        if choice.value is None:
            return
        messages = [*said[side], {"role": "user", "content": text}]
        with area:
            ui.chat_message(text, sent=True)
            with ui.chat_message(name=models[choice.value]):
                written = ui.label("").style("white-space: pre-wrap")
        pieces: list[str] = []
        async for piece in _pieces(choice.value, messages, len(messages), stopped):
            pieces.append(piece)
            written.text = "".join(pieces)
        said[side] = [*messages, {"role": "assistant", "content": "".join(pieces)}]
        with area:
            _traceable(place, choice.value, "".join(pieces))

    async def send() -> None:
        text = (question.value or "").strip()
        if not text:
            return
        question.value = ""
        stopped.clear()
        ask.disable()
        try:
            for side in (0, 1):
                await answer(side, text)
        finally:
            ask.enable()

    ask.on_click(send)
    question.on("keydown.enter", send)


def _traceable(place: Place, model: str, text: str) -> None:
    """A button under a reply that shows where it comes from."""
    button = ui.button("Trace").props("flat dense size=sm")
    found = ui.column().classes("w-full")
    button.on_click(lambda: trace(place.store, model, text, found))


def _new(said: dict[int, list[dict[str, str]]], sides: list[Any]) -> None:
    for side, (_, area) in enumerate(sides):
        said[side] = []
        area.clear()
