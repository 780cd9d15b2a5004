"""`trivium serve`: an engine behind uvicorn, which ends when what is under way has ended. SIGHUP loads the weights again."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from trivium.errors import DataError, TriviumError
from trivium.serve.app import Trace, Web
from trivium.serve.engines import Engine
from trivium.serve.keys import Keys
from trivium.serve.metrics import Metrics
from trivium.serve.process import configured, loopback, own_names, run, shown, until_drained

log = logging.getLogger("trivium.serve")
Make = Callable[[Metrics | None], Engine]
"""Makes the engine, with the metrics of the one before it."""


class Reloading:
    """What is under way in all engines of one server: the one that answers now, and those that finish what they began."""

    def __init__(self, web: Web, make: Make) -> None:
        self.web, self.make = web, make
        self.leaving: list[Engine] = []
        self._loading = asyncio.Lock()

    @property
    def active(self) -> int:
        return sum(engine.active for engine in (*self.web.engines, *self.leaving))

    @property
    def draining(self) -> bool:
        return self.web.engine.draining

    @draining.setter
    def draining(self, now: bool) -> None:
        for engine in self.web.engines:
            engine.draining = now

    def stop_soon(self) -> None:
        for engine in (*self.web.engines, *self.leaving):
            engine.stop_soon()

    async def reload(self) -> bool:
        """Puts a new engine in the place of the one that answers, once it is ready; replies under way are finished by the old
        one. Both are in memory until then. False, and nothing changes, where there is no new one to be had."""
        async with self._loading:
            before = self.web.engine
            try:
                new = await asyncio.to_thread(self.make, before.metrics)
            except TriviumError as error:
                log.error("the weights stay as they are: %s", error)
                return False
            new.start()
            while not new.ready and new.broken is None:
                await asyncio.sleep(0.01)
            if new.broken is not None or self.draining:
                log.error("the weights stay as they are: %s", new.broken or "the server is stopping")
                await asyncio.to_thread(new.stop)
                return False
            self.leaving.append(before)
            self.web.engine = new
            log.info("%s is loaded again; %d replies finish on what was before", new.name, before.active)
        while before.active:
            await asyncio.sleep(0.05)
        self.leaving.remove(before)
        await asyncio.to_thread(before.stop)
        return True


def serve(
    make: Make, *, host: str, port: int, keys: Path | None = None, requests: str | None = None,
    tokens: str | None = None, feedback: Path | None = None, beside: Make | None = None,
    traces: Mapping[str, Trace] | None = None,
) -> None:  # fmt: skip
    """Serves until SIGTERM or SIGINT, then finishes what is under way for the engine's `drain` seconds. A second signal
    ends it at once. `requests`, `tokens`: see `Keys`; `feedback`, `beside`, `traces`: see `Web`.

    DataError for an address that others can reach without keys, and two engines of one name.
    """
    if keys is None and not loopback(host):
        raise DataError(
            f"{host} can be reached by others, and no key is asked for",
            fix="add --keys FILE (`trivium serve --new-key NAME --keys FILE` makes one), or serve on 127.0.0.1",
        )
    known = None if keys is None else Keys(keys, requests, tokens)
    engine = make(None)
    second = None if beside is None else beside(None)
    if second is not None and second.name == engine.name:
        raise DataError(
            f"both models are called {engine.name!r}", fix="give the first one another name: --name"
        )
    web = Web(engine, known, None if keys is not None else own_names(host), feedback, second, traces)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    url = shown(host, port)
    print(f"{engine.name} on {url} (API: {url}/v1); Ctrl-C stops, SIGHUP loads it again", flush=True)
    run(_run(web, make, host, port))


async def _run(web: Web, make: Make, host: str, port: int) -> None:
    changing, tasks = Reloading(web, make), set[asyncio.Task[bool]]()

    def again() -> None:
        task = asyncio.get_running_loop().create_task(changing.reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, again)
    await until_drained(configured(web.app(), host, port), changing, web.engine.limits.drain)
    for task in tasks:
        task.cancel()
