"""The pictures in docs/pictures, of a run that is there: `python docs/screenshots.py runs/demo`, after `trivium run demo.yaml`.

Starts `trivium ui`, two of `trivium serve` and `trivium rollout serve` over the run's models, asks them questions, and takes the
pages in Chromium: what they show of that run, and nothing is put in. Needs the extras ui, serve and rollout, playwright,
Pillow and a Chromium of the system.
"""

from __future__ import annotations

import argparse
import io
import itertools
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml
from PIL import Image

PICTURES = Path(__file__).parent / "pictures"
SIZE = {"width": 1200, "height": 760}
COLOURS = 128
"""Of a picture: enough for pages of text and lines, and a third of the bytes."""
UI, ROUTER, STABLE, CANDIDATE = 8671, 8672, 8673, 8674
QUESTIONS = (
    "What is 12 + 30?",
    "What does math.sqrt do?",
    "Sort these numbers: 9, 4, 7.",
    "What does os.getcwd do?",
    "Hi!",
)
PEOPLE = 120
WAIT = 180_000
"""Milliseconds until a page shows what it is about: machines that take pictures may be busy."""


class Place(NamedTuple):
    run: Path
    folder: Path
    stable: Path
    candidate: Path


@contextmanager
def running(folder: Path, port: int, *words: str) -> Iterator[str]:
    """The address of a command that serves, once it answers."""
    log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the command
    command = [sys.executable, "-m", "trivium", *words, "--port", str(port)]
    server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx.get(address, timeout=60)
                break
            except httpx.TransportError:
                if server.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"{' '.join(words)} ended:\n{log.read().decode()}") from None
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def traffic(router: str) -> None:
    """Requests of people through the router, by which the evidence on its page comes about."""
    for person, question in zip(range(PEOPLE), itertools.cycle(QUESTIONS), strict=False):
        asked = {
            "model": "chat",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 24,
            "user": f"user-{person}",
        }
        httpx.post(f"{router}/v1/chat/completions", json=asked, timeout=120)


def keep(page: Any, name: str, settled: float = 1.5) -> None:
    page.wait_for_timeout(settled * 1000)
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(COLOURS).save(PICTURES / f"{name}.png", optimize=True)
    print(f"{name}.png: {(PICTURES / f'{name}.png').stat().st_size / 1000:.0f} kB")


def of_the_run(page: Any, place: Place) -> None:
    with running(place.folder, UI, "ui") as address:
        page.goto(f"{address}/run/{place.run.name}")
        page.locator("svg .node").first.wait_for(timeout=WAIT)
        keep(page, "stages")
        for tab, name in (("Curves", "curves"), ("Data", "data")):
            page.get_by_role("tab", name=tab).click()
            page.locator("canvas").first.wait_for(timeout=WAIT)
            page.wait_for_timeout(8000)
            page.locator("canvas").first.wait_for(
                timeout=WAIT
            )  # a busy machine may have lost its page meanwhile
            keep(page, name)


def of_the_arena(page: Any, place: Place) -> None:
    with running(place.folder, UI, "ui") as address:
        page.goto(f"{address}/arena")
        page.get_by_role("button", name="Compare replies").click()
        page.frame_locator("iframe").get_by_role("button", name="Left").wait_for(timeout=WAIT)
        keep(page, "arena")


def of_the_report(page: Any, place: Place) -> None:
    page.goto((place.run / "report.html").as_uri())
    keep(page, "report")


def of_the_chat(page: Any, place: Place) -> None:
    with running(place.folder, CANDIDATE, "serve", str(place.candidate)) as address:
        page.goto(address)
        for nth, question in enumerate(QUESTIONS[:2]):
            page.locator("#text").fill(question)
            page.locator("#text").press("Enter")
            page.locator("#stop:not([disabled])").or_(page.locator("#retry:not([disabled])")).first.wait_for(
                timeout=WAIT
            )
            page.locator("#retry:not([disabled])").wait_for(timeout=WAIT)
            page.wait_for_timeout(1000 + nth)
        keep(page, "chat")


def of_the_rollout(page: Any, place: Place) -> None:
    guardrails = {
        "errors": {"metric": "error", "within": 0.05},
        "empty": {"metric": "empty"},
        "latency": {"metric": "log_latency", "tau": 0.1},
    }
    with ExitStack() as stack, tempfile.TemporaryDirectory() as temporary:
        arms = {
            name: {"url": stack.enter_context(running(place.folder, port, "serve", str(model)))}
            for name, port, model in (
                ("stable", STABLE, place.stable),
                ("candidate", CANDIDATE, place.candidate),
            )
        }
        stages = [{"share": 0.5, "min_units": 40}]
        plan = {"name": "chat", "unit": "user", "arms": arms, "stages": stages, "guardrails": guardrails}
        file = Path(temporary) / "rollout.yaml"
        file.write_text(yaml.safe_dump(plan))
        words = (
            "rollout",
            "serve",
            str(file),
            "--log",
            str(Path(temporary) / "rollout.db"),
            "--without-gates",
        )
        router = stack.enter_context(running(place.folder, ROUTER, *words))
        traffic(router)
        page.goto(f"{router}/rollout")
        keep(page, "rollout", 4)


PARTS: dict[str, Callable[[Any, Place], None]] = {
    "run": of_the_run,
    "report": of_the_report,
    "arena": of_the_arena,
    "chat": of_the_chat,
    "rollout": of_the_rollout,
}


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="its folder; the folder above `runs` is where the recipe ran")
    parser.add_argument(
        "--models", nargs=2, default=["sft", "aligned"], metavar="STAGE", help="stable, candidate"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    run = arguments.run.absolute()
    place = Place(run, run.parent.parent, *(run / stage for stage in arguments.models))
    PICTURES.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it started ends with it
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.set_default_timeout(WAIT)
        for part in arguments.only:
            PARTS[part](page, place)
        browser.close()


if __name__ == "__main__":
    main()
