"""The crawler, against a site served on loopback: it obeys, stays inside, and goes on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastwarc.warc import ArchiveIterator
from sources_made import everything, kept, opened

from trivium.corpus.readers import crawl_log
from trivium.errors import DataError


class Site(BaseHTTPRequestHandler):
    """Pages 0 to 11, each with links to the next two, and what a crawler must not do."""

    robots = "User-agent: *\nDisallow: /private/\n"
    asked: list[tuple[float, str]]
    slow = 0.0

    def do_GET(self) -> None:
        self.asked.append((time.monotonic(), self.path))
        time.sleep(self.slow)
        status, kind, body = self.answer()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", body)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def answer(self) -> tuple[int, str, str]:
        if self.path == "/robots.txt":
            return 200, "text/plain", self.robots
        if self.path == "/moved":
            return 302, "text/html", "/page/5"
        if self.path == "/away":
            return 302, "text/html", f"http://localhost:{self.server.server_address[1]}/foreign"
        head, _, number = self.path.rpartition("/")
        if head == "/page" and number.isdigit() and int(number) < 12:
            links = [f"/page/{int(number) + step}" for step in (1, 2)]
            if number == "0":
                links += ["/private/1", "/moved", "/away", "/gone", "/noindex", "http://localhost:1/foreign"]
            html = "".join(f'<a href="{link}#part">next</a>' for link in links)
            hidden = '<a rel="nofollow" href="/nofollow">no</a>'
            text = f"<main><p>This is page {number} of the site.</p></main>"
            return 200, "text/html; charset=utf-8", f"<html><body>{text}{html}{hidden}</body></html>"
        if self.path == "/noindex":
            return (
                200,
                "text/html",
                '<html><head><meta name="Robots" content="noindex"></head><body>hidden</body>',
            )
        return 404, "text/html", "<html><body>not here</body></html>"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[tuple[str, type[Site]]]:
    handler = type("Handler", (Site,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()
    thread.join()


AGENT = "Trivium-test (+https://example.org/bot)"


def crawl(folder: Path, url: str, **block: Any) -> Any:
    block = {
        "kind": "crawl",
        "start": [f"{url}/page/0"],
        "delay": "0.02s",
        "depth": 20,
        "agent": AGENT,
        "private": True,
        **block,
    }
    return opened(folder, **block)


def paths(documents: list[dict[str, Any]]) -> list[str]:
    return sorted(document["url"].split("/", 3)[3] for document in documents if document["reason"] is None)


PAGES = sorted(f"page/{number}" for number in range(12))


def test_a_site_is_read_politely(tmp_path: Path, site: tuple[str, type[Site]]) -> None:
    url, server = site
    source = crawl(tmp_path, url)
    documents, dead = everything(source)
    assert dead == []
    assert paths(documents) == PAGES
    assert "This is page 0 of the site." in sorted(kept(documents))[0]
    asked = [path for _, path in server.asked]
    assert asked[0] == "/robots.txt"
    assert not {"/private/1", "/nofollow", "/foreign"} & set(asked)
    assert len(asked) == len(set(asked))  # nothing is fetched twice
    reasons = {
        document["url"].split("/", 3)[3]: document["reason"] for document in documents if document["reason"]
    }
    assert reasons["gone"] == "HTTP status 404"
    assert reasons["private/1"].startswith("forbidden by robots.txt")
    assert "noindex" not in str(documents)
    before = len(server.asked)
    assert paths(everything(crawl(tmp_path, url))[0]) == PAGES  # kept: nothing is fetched again
    assert len(server.asked) == before
    for file in source.folder.glob("*.warc.gz"):  # what is written, others can read
        with file.open("rb") as stream:
            sound = ArchiveIterator(
                stream, parse_http=False, func_filter=lambda one: one.verify_block_digest()
            )
            stored = sum("HTTP status" in (document["reason"] or "HTTP status") for document in documents)
            assert len(list(sound)) == stored


def test_depth_pages_and_domains_are_kept(tmp_path: Path, site: tuple[str, type[Site]]) -> None:
    url, server = site
    assert paths(everything(crawl(tmp_path, url, depth=2))[0]) == [f"page/{n}" for n in range(8)]
    server.asked.clear()
    documents, _ = everything(crawl(tmp_path, url, max_pages=4))
    assert len(paths(documents)) == 4
    assert len(server.asked) < 12
    with pytest.raises(DataError, match="the crawl fetched no page"):
        everything(crawl(tmp_path, url, domains=["example.org"]))
    server.robots = "User-agent: Trivium-test\nDisallow: /\n"
    with pytest.raises(DataError, match="the crawl fetched no page"):
        everything(crawl(tmp_path, url, round=2))


def test_the_delay_holds_and_a_longer_one_in_robots_txt_wins(
    tmp_path: Path, site: tuple[str, type[Site]]
) -> None:
    url, server = site
    server.robots = "User-agent: *\nCrawl-delay: 0.4\n"
    everything(crawl(tmp_path, url, max_pages=4))
    times = [moment for moment, path in server.asked if path.startswith("/page/")]
    # from the first to the last: a busy machine moves where single gaps end
    assert times[-1] - times[0] > 0.35 * (len(times) - 1) > 0.7


def test_killed_and_run_again_it_fetches_only_the_rest(tmp_path: Path, site: tuple[str, type[Site]]) -> None:
    url, server = site
    server.slow = 0.1
    source = crawl(tmp_path, url)
    from trivium.corpus.readers.crawl import job
    from trivium.files import write_json

    source.folder.mkdir(parents=True)
    write_json(source.folder / crawl_log.JOB, job(source.config))
    command = [sys.executable, "-m", "trivium.corpus.readers.crawler", str(source.folder)]
    process = subprocess.Popen(command, env=os.environ)
    deadline = time.monotonic() + 300
    while len(list(crawl_log.entries(source.folder))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {entry["url"] for entry in crawl_log.entries(source.folder) if entry.get("page")}
    assert 2 <= len(done) < 12
    with (source.folder / crawl_log.LOG).open("a") as log:
        log.write('{"url": "half a li')  # as a kill may leave it
    last = max(source.folder.glob("*.warc.gz"))
    last.write_bytes(last.read_bytes() + b"\x1f\x8b\x08\0half")
    before = len(server.asked)
    server.slow = 0.0
    documents, dead = everything(crawl(tmp_path, url))
    assert sorted(set(paths(documents))) == PAGES
    again = {f"{url}{path}" for _, path in server.asked[before:]}
    assert not again & (done - {f"{url}/page/5"})  # another address leads there
    assert len(dead) == 1  # the half record, named
    assert "truncated" in dead[0]["reason"] or "corrupt" in dead[0]["reason"]
    assert json.loads((source.folder / crawl_log.DONE).read_text())["pages"] == 12


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the crawl fetched no page") as caught:
        everything(crawl(tmp_path, "http://127.0.0.1:9"))
    assert "refused" in caught.value.what.lower()


def test_addresses_that_are_not_public_are_asked_for_only_when_told(
    tmp_path: Path, site: tuple[str, type[Site]]
) -> None:
    url, server = site
    start = [url.replace("127.0.0.1", host) for host in ("127.0.0.1", "localhost", "2130706433")]
    with pytest.raises(DataError, match="the crawl fetched no page") as caught:
        everything(crawl(tmp_path, url, start=start, private=False))
    assert "private: true" in str(caught.value.fix) and server.asked == []


def test_only_the_ports_of_the_start_are_asked(tmp_path: Path, site: tuple[str, type[Site]]) -> None:
    """Another port is another server: by link and by redirect it is left alone, unless a start URL names it."""
    url, _ = site
    other = type("Other", (Site,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), other)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    foreign = f"http://127.0.0.1:{server.server_address[1]}"
    answer = Site.answer

    def leading_out(self: Site) -> tuple[int, str, str]:
        if self.path == "/page/0":
            return 200, "text/html", f'<a href="{foreign}/page/9">linked</a><a href="/moved">redirected</a>'
        return (302, "text/html", f"{foreign}/page/10") if self.path == "/moved" else answer(self)

    site[1].answer = leading_out  # type: ignore[method-assign]
    try:
        documents, _ = everything(crawl(tmp_path, url))
        assert other.asked == []
        assert {d["url"]: d["reason"] for d in documents}[f"{foreign}/page/10"].count("ports") == 1
        start = [f"{url}/page/0", f"{foreign}/page/11"]
        everything(crawl(tmp_path, url, start=start))
        assert {"/page/9", "/page/10", "/page/11"} <= {path for _, path in other.asked}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("http://a.org/", "https://a.org/", True),
        ("http://a.org:80/", "https://a.org:443/", True),
        ("http://a.org/", "http://a.org:8080/", False),
        ("http://a.org/", "http://a.org:443/", False),
        ("http://a.org/", "http://a.org:99999/", False),
    ],
)
def test_the_usual_ports_of_http_and_https_count_as_one(first: str, second: str, same: bool) -> None:
    from trivium.corpus.readers.crawler import port

    assert (port(first) == port(second)) is same


INWARD = """
import sys
from pathlib import Path
from trivium.corpus.readers import crawler
crawler.is_public = lambda address: address == "127.0.0.1"
crawler.main(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("private", [False, True])
def test_a_public_page_that_redirects_to_a_private_address_is_refused(
    tmp_path: Path, site: tuple[str, type[Site]], private: bool
) -> None:
    """127.0.0.1 stands in for a public address; the private one is within the domains, so nothing else refuses it."""
    from trivium.corpus.readers.crawl import job
    from trivium.files import write_json

    url, server = site
    inward = url.replace("127.0.0.1", "127.0.0.2") + "/page/1"
    server.answer = lambda self: (  # type: ignore[method-assign, assignment]
        (302, "text/html", inward) if self.path == "/page/0" else (404, "text/html", "")
    )
    source = crawl(tmp_path, url, domains=["127.0.0.1", "127.0.0.2"], private=private)
    source.folder.mkdir(parents=True)
    write_json(source.folder / crawl_log.JOB, job(source.config))
    subprocess.run([sys.executable, "-c", INWARD, str(source.folder)], check=True, capture_output=True)
    last = {entry["url"]: entry for entry in crawl_log.missed(source.folder)}[inward]
    assert ("no public address" in last.get("refused", "")) is not private
    assert ("failed" in last) is private  # asked for, and nobody is there


def test_a_crawl_tells_how_far_it_is(tmp_path: Path, site: tuple[str, type[Site]]) -> None:
    source = crawl(tmp_path, site[0])
    events: list[dict[str, Any]] = []
    source.emit = events.append
    everything(source)
    refused = sum("refused" in entry for entry in crawl_log.entries(source.folder))
    assert refused
    said = [event["message"].split(": ")[-1] for event in events if event["event"] == "message"]
    assert said[0].startswith("1 fetched, ") or said[0].startswith("0 fetched, ")
    assert said[-1] == f"12 fetched, 0 queued, {refused} refused"
