"""The crawling process: `python -m trivium.corpus.readers.crawler FOLDER`. Scrapy fetches; what is fetched becomes WARC.

Polite: robots.txt with its Crawl-delay, one request at a time to a host and a least delay between them, `noindex`,
`nofollow`, an allow-list of hosts, limits on depth and pages. Scrapy's own way of resuming loses what was under way
when it is killed, and keeps its queue in pickles; here the log holds each page's links, and the queue is made from it.
"""

from __future__ import annotations

import gzip
import io
import ipaddress
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urlsplit

import filelock
import scrapy
from fastwarc.warc import WarcRecord, WarcRecordType
from scrapy.crawler import CrawlerProcess
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.linkextractors import LinkExtractor
from scrapy.resolver import CachingThreadedResolver

from trivium.corpus.readers import crawl_log
from trivium.files import write_json

LARGEST = 16 * 2**20
"""Bytes of an answer that are fetched at most."""
ERRORS = list(range(400, 600))
"""Answers that are kept too (and not asked for again); redirects are followed."""
EVERY = 10.0
"""Seconds between two lines of progress."""
FILE = 2**30
"""Bytes after which another WARC file is begun."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; IPv6 forms of private IPv4 addresses are not."""
    parsed = ipaddress.ip_address(address)
    inner = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None) or parsed
    return bool(inner.is_global and not inner.is_multicast)


class PublicResolver(CachingThreadedResolver):
    """Names that lead to private addresses lead nowhere. The address that is looked at is the one that is asked."""

    def getHostByName(self, name: str, timeout: Sequence[int] = ()) -> Any:
        return super().getHostByName(name, timeout).addCallback(self._checked, name)

    @staticmethod
    def _checked(address: str, name: str) -> str:
        if not is_public(address):
            raise OSError(f"{name} is at {address}, which is no public address")
        return address


class PublicOnly:
    """Refuses requests to private addresses by number, those after a redirect and those for robots.txt too."""

    def process_request(self, request: Any) -> None:
        host = urlsplit(request.url).hostname or ""
        try:
            public = is_public(host)
        except ValueError:
            return  # a name: the resolver looks at where it leads
        if not public:
            raise IgnoreRequest(f"{host} is no public address")


def port(url: str) -> int | None:
    """The port that a URL names; None for the usual one of its scheme, so that http may lead to https."""
    parts = urlsplit(url)
    try:
        return None if parts.port == {"http": 80, "https": 443}.get(parts.scheme) else parts.port
    except ValueError:  # none between 0 and 65535
        return -1


class OwnPorts:
    """Refuses requests to other ports than those of the start URLs, those after a redirect too: another port of a host is
    another server, and often not meant for the public."""

    def __init__(self, ports: set[int | None]) -> None:
        self.ports = ports

    @classmethod
    def from_crawler(cls, crawler: Any) -> OwnPorts:
        return cls(set(map(port, crawler.spider.job["start"])))

    def process_request(self, request: Any) -> None:
        if port(request.url) not in self.ports:
            raise IgnoreRequest("another port than those of the start URLs")


class Robots(RobotsTxtMiddleware):
    """robots.txt with its Crawl-delay, which Scrapy reads but does not obey."""

    def process_request_2(self, rp: Any, request: Any, *rest: Any) -> None:
        delay = getattr(getattr(rp, "rp", None), "crawl_delay", lambda agent: None)(self._robotstxt_useragent)
        if delay:
            downloader = self.crawler.engine.downloader
            slot = downloader.slots.get(downloader.get_slot_key(request))
            if slot is not None:
                slot.delay = max(slot.delay, float(delay))
        super().process_request_2(rp, request, *rest)


class Spider(scrapy.Spider):
    name = "trivium"

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        super().__init__()
        self.folder, self.job = folder, job
        self.allowed_domains = list(job["domains"])
        self.ports = set(map(port, job["start"]))
        self.links = LinkExtractor()
        self.fetched: set[str] = set()
        """URLs with an answer, and those that were redirected to them."""
        self.pages = self.refused = 0
        self.told = -math.inf
        """When the last line of progress was written."""
        self.warc: Any = None
        self.journal = (folder / crawl_log.LOG).open("a", encoding="utf-8")

    async def start(self) -> AsyncIterator[Any]:
        """What is still to be fetched: the links of all pages in the log, and the start."""
        frontier: dict[str, int] = dict.fromkeys(self.job["start"], 0)
        for entry in crawl_log.entries(self.folder):
            if "status" in entry:
                self.fetched |= {entry["url"], *entry.get("from", [])}
                self.pages += entry.get("page") is True
                for url in entry.get("links", []):
                    frontier[url] = min(frontier.get(url, entry["depth"] + 1), entry["depth"] + 1)
        for url, depth in sorted(frontier.items(), key=lambda item: item[1]):
            if url not in self.fetched and depth <= self.job["depth"] and self._ours(url):
                yield self._request(url, depth)

    def _request(self, url: str, depth: int) -> Any:
        meta = {"level": depth, "handle_httpstatus_list": ERRORS}
        return scrapy.Request(url, callback=self.answered, errback=self.failed, meta=meta, priority=-depth)

    def _ours(self, url: str) -> bool:
        host = (urlsplit(url).hostname or "").lower()
        below = self.job["subdomains"]
        return port(url) in self.ports and any(
            host == d.lower() or (below and host.endswith(f".{d.lower()}")) for d in self.job["domains"]
        )

    def answered(self, response: Any) -> Iterator[Any]:
        if self.pages >= self.job["max_pages"]:
            raise CloseSpider("max_pages")
        depth: int = response.meta["level"]
        if not self._ours(response.url):  # redirected away
            self._note(
                {"url": response.request.url, "refused": "redirected out of the allowed domains and ports"}
            )
            return
        before = response.meta.get("redirect_urls", [])
        if response.url in self.fetched:  # several addresses of one page
            self._note({"url": response.url, "from": before, "depth": depth, "status": 0, "links": []})
            return
        robots = _robots(response)
        links = [] if "nofollow" in robots or depth >= self.job["depth"] else self._links(response)
        page = response.status == 200 and "noindex" not in robots
        if "noindex" not in robots:
            self._store(response)
        self.pages += page
        self.fetched |= {response.url, *before}
        answer = {"depth": depth, "status": response.status, "page": page, "links": links}
        self._note({"url": response.url, "from": before, **answer})
        for url in links:
            if url not in self.fetched:
                yield self._request(url, depth + 1)

    def _links(self, response: Any) -> list[str]:
        if response.status != 200 or not isinstance(response, scrapy.http.HtmlResponse):
            return []
        found = [link for link in self.links.extract_links(response) if not link.nofollow]
        urls = dict.fromkeys(urldefrag(link.url)[0] for link in found)
        return [url for url in urls if url.startswith(("http://", "https://")) and self._ours(url)]

    def failed(self, failure: Any) -> None:
        """What could not be fetched is a dead letter later on; what robots.txt forbids is only left out."""
        url = failure.request.url
        if failure.check(IgnoreRequest):
            self._note(
                {
                    "url": url,
                    "refused": "forbidden by robots.txt, outside the allowed domains and ports, or no public address",
                }
            )
        else:
            self._note({"url": url, "failed": f"{failure.type.__name__}: {failure.getErrorMessage()}"[:300]})

    def _note(self, entry: dict[str, Any]) -> None:
        self.journal.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.journal.flush()
        self.refused += "refused" in entry
        if time.monotonic() - self.told >= EVERY:
            self._tell()

    def _tell(self) -> None:
        """A line of progress for the process that waits. Queued: what the scheduler holds, redirects included."""
        self.told = time.monotonic()
        counts = [self.crawler.stats.get_value(f"scheduler/{way}", 0) for way in ("enqueued", "dequeued")]
        state = {"fetched": self.pages, "queued": counts[0] - counts[1], "refused": self.refused}
        print(json.dumps(state), flush=True)

    def _store(self, response: Any) -> None:
        """One gzip member, written in one go: the page as it was answered."""
        if self.warc is None or self.warc.tell() > FILE:
            self._next_file()
        http = io.BytesIO()
        http.write(f"HTTP/1.1 {response.status}\r\n".encode())
        for name, values in response.headers.items():
            if name.lower() not in (
                b"content-encoding",
                b"transfer-encoding",
                b"content-length",
                b"set-cookie",
            ):
                for value in values:
                    http.write(name + b": " + value + b"\r\n")
        http.write(b"Content-Length: %d\r\n\r\n" % len(response.body) + response.body)
        record = WarcRecord()
        record.init_headers(record_type=WarcRecordType.response)
        record.headers["WARC-Target-URI"] = response.url
        record.headers["WARC-Date"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        record.headers["Content-Type"] = "application/http; msgtype=response"
        record.set_bytes_content(http.getvalue())
        self.warc.write(_packed(record))
        self.warc.flush()

    def _next_file(self) -> None:
        """A new file at each start: the last one may end in half a record."""
        if self.warc is not None:
            self.warc.close()
        number = len(list(self.folder.glob("pages-*.warc.gz")))
        self.warc = (self.folder / f"pages-{number:05d}.warc.gz").open("xb")

    def closed(self, reason: str) -> None:
        self._tell()
        self.journal.close()
        if self.warc is not None:
            self.warc.close()
        if reason in ("finished", "max_pages"):
            write_json(self.folder / crawl_log.DONE, {"pages": self.pages, "reason": reason})


def _packed(record: WarcRecord) -> bytes:
    plain = io.BytesIO()
    record.write(plain, checksum_data=True)
    return gzip.compress(plain.getvalue(), 6, mtime=0)


def _robots(response: Any) -> str:
    """What the page asks of robots, in its header and in itself."""
    said = [value.decode("latin-1") for value in response.headers.getlist("X-Robots-Tag")]
    if isinstance(response, scrapy.http.HtmlResponse):
        said += response.xpath("//meta[translate(@name, 'ROBTS', 'robts')='robots']/@content").getall()
    return " ".join(said).lower()


def main(folder: Path) -> None:
    job = json.loads((folder / crawl_log.JOB).read_text(encoding="utf-8"))
    middlewares: dict[str | type, int | None] = {
        "scrapy.downloadermiddlewares.robotstxt.RobotsTxtMiddleware": None,
        Robots: 100,
        OwnPorts: 40,
    }
    if not job["private"]:
        middlewares[PublicOnly] = 50
    settings = {
        "USER_AGENT": job["agent"],
        "ROBOTSTXT_OBEY": True,
        "ROBOTSTXT_USER_AGENT": job["agent"].split("/")[0].split(" ")[0],
        "DOWNLOADER_MIDDLEWARES": middlewares,
        **(
            {} if job["private"] else {"DNS_RESOLVER": PublicResolver, "TWISTED_DNS_RESOLVER": PublicResolver}
        ),
        "DOWNLOAD_DELAY": job["delay"],
        "RANDOMIZE_DOWNLOAD_DELAY": False,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 1,
        "CONCURRENT_REQUESTS": 16
        if job["subdomains"]
        else len(job["domains"]),  # more would run past max_pages
        "DOWNLOAD_MAXSIZE": LARGEST,
        "DOWNLOAD_TIMEOUT": 60,
        "RETRY_TIMES": 2,
        "REDIRECT_MAX_TIMES": 5,
        "COOKIES_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "LOG_LEVEL": "ERROR",
    }
    with filelock.FileLock(
        folder / "crawler.lock"
    ):  # one whose parent was killed may still be at work: it ends first
        process = CrawlerProcess(settings)
        process.crawl(Spider, folder=folder, job=job)
        process.start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
