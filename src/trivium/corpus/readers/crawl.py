"""A crawl as a source: fetches first, in a process of its own, into a folder beside the recipe; then reads its WARC.

The folder is the one place that a data stage writes to outside of its artifact: a site is not asked for the same pages
again because a threshold has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filelock

from trivium.corpus import extras
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import crawl_log, locate
from trivium.corpus.readers.base import Document, Part, Setting
from trivium.corpus.readers.endings import WARC, fits
from trivium.corpus.readers.warc import SPLITS, Warc
from trivium.errors import DataError
from trivium.files import canonical_json, write_json
from trivium.recipe import sources


class Crawl(Warc):
    """Parts are those of the WARC files that the crawl wrote, and one of the requests that failed."""

    config: sources.Crawl

    endings: tuple[str, ...] | None = None  # a crawl is what the recipe asks for

    def __init__(self, config: sources.Crawl, setting: Setting) -> None:
        super().__init__(config, setting)
        self.origin = config.origin or ", ".join(config.start[:3])

    @property
    def folder(self) -> Path:
        """Where this crawl's files are: named by what is asked for, so that another crawl never reads them."""
        asked = {key: value for key, value in job(self.config).items() if key not in ("agent", "delay")}
        name = f"crawl-{hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:12]}"
        return Path(self.setting.folder / self.config.folder / name)

    def parts(self, characters: int | None = None) -> list[Part]:
        """Crawls, or goes on where a killed crawl stopped. DataError if not one page could be fetched."""
        if not (self.folder / crawl_log.DONE).is_file():
            self._fetch()
        names = sorted(file.name for file in self.folder.iterdir() if fits(file.name, WARC))
        found = locate.ranges(names, self.setting.index, self.folder, splits=SPLITS)
        return [*found, Part(self.setting.index, crawl_log.LOG, index=len(found))]

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        if part.path == crawl_log.LOG:
            for entry in crawl_log.missed(self.folder):
                url = entry["url"]
                if "failed" in entry:
                    dead.add(url, None, f"not fetched: {entry['failed']}")
                else:
                    yield self.dropped(self.document(url, "", url, url=url), str(entry.get("refused")))
            return
        yield from super().read(part, dead)

    def root(self) -> Path:
        return self.folder

    def _fetch(self) -> None:
        with extras.needed("crawl", "scrapy"):
            import scrapy  # noqa: F401 - the process below needs it
        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / "lock"):  # another recipe may want the same crawl
            if not (self.folder / crawl_log.DONE).is_file():
                self._run()

    def _run(self) -> None:
        write_json(self.folder / crawl_log.JOB, job(self.config))
        command = [sys.executable, "-m", "trivium.corpus.readers.crawler", str(self.folder)]
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
            )
            try:
                for line in process.stdout or ():
                    self._tell(line)
                process.wait()
            finally:
                process.kill()  # nothing, if it has ended
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or ["no word from it"]
        if not (self.folder / crawl_log.DONE).is_file():
            raise DataError(
                f"the crawl stopped early (exit code {process.returncode}): {last[0]}"[:500],
                where=f"sources: crawl, {self.config.start[0]}",
                fix="run again: it goes on where it stopped",
            )
        pages = json.loads((self.folder / crawl_log.DONE).read_text(encoding="utf-8"))["pages"]
        if not pages:
            failed = [f"{e['url']}: {e['failed']}" for e in crawl_log.missed(self.folder) if "failed" in e]
            (self.folder / crawl_log.DONE).unlink()
            raise DataError(
                "the crawl fetched no page" + (f" ({'; '.join(failed[:3])})" if failed else ""),
                where=f"sources: crawl, {self.config.start[0]}",
                fix="check `start`, and whether robots.txt allows it; addresses that are not public need `private: true`",
            )

    def _tell(self, line: str) -> None:
        """A line of the crawler's progress, as a message of the stage."""
        with contextlib.suppress(ValueError, TypeError, KeyError):  # what a library prints is no progress
            state = json.loads(line)
            counts = ", ".join(f"{state[name]} {name}" for name in ("fetched", "queued", "refused"))
            self.emit({"event": "message", "message": f"crawl of {self.config.start[0]}: {counts}"})


def job(config: sources.Crawl) -> dict[str, Any]:
    """What the crawling process is told."""
    hosts = config.domains or sorted({urlsplit(url).hostname or "" for url in config.start})
    return {
        "start": list(config.start),
        "domains": list(hosts),
        "subdomains": bool(config.domains),
        "depth": config.depth,
        "max_pages": config.max_pages,
        "delay": config.delay,
        "agent": config.agent,
        "round": config.round,
        "private": config.private,
    }
