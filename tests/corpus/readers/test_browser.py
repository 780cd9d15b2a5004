"""Pages as a real browser reads them: charsets, and XHTML as XHTML. Slow: a browser is started."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_pages import BAD, GERMAN, JAPANESE, RUSSIAN

from trivium.corpus.readers import charset

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]
PAGES = {
    f"bad-{number}": (f"text/html; charset={label}", b"<body>" + data)
    for number, (label, data, _) in enumerate(BAD)
    if label != "iso-2022-kr"  # refused by browsers
} | {
    "utf16": ("text/html; charset=utf-16", f"<body>{JAPANESE}".encode("utf-16-le")),
    "utf16be": ("text/html; charset=utf-16be", f"<body>{JAPANESE}".encode("utf-16-be")),
    "comment": ("text/html", b'<!-- <meta charset="big5"> --><meta charset="koi8-r">' + RUSSIAN.encode("koi8-r")),
    "pragma": (
        "text/html",
        b'<meta name=a content="charset=big5"><meta http-equiv=content-type content="text/html;charset=cp1251">'
        + RUSSIAN.encode("cp1251"),
    ),
    "utf16 in a meta": ("text/html", f'<meta charset="utf-16">{GERMAN}'.encode()),
    "header wins": ("text/html; charset=koi8-r", b'<meta charset="cp1251">' + RUSSIAN.encode("koi8-r")),
    "unknown": ("text/html; charset=klingon", b'<meta charset="cp1251">' + RUSSIAN.encode("cp1251")),
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.strip("/").replace("%20", " ")
        frames = "".join(f'<iframe src="/{name}"></iframe>' for name in PAGES)
        script = (
            "<script>onload = () => { document.body.textContent = JSON.stringify([...document.querySelectorAll"
            "('iframe')].map(f => [...f.contentDocument.body.textContent].map(c => c.codePointAt(0)))) }</script>"
        )
        kind, body = PAGES.get(name, ("text/html", f"<!doctype html>{script}<body>{frames}".encode()))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_charsets_are_read_as_a_browser_reads_them(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--dump-dom", f"http://127.0.0.1:{server.server_address[1]}/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    server.shutdown()
    server.server_close()
    thread.join()
    found = re.search(r"<body>(\[.*?)</body>", done.stdout)
    assert found, done.stdout[:500]
    for (name, (kind, body)), points in zip(PAGES.items(), json.loads(found[1]), strict=True):
        declared = kind.partition("charset=")[2] or None
        ours = re.sub(r"<!--.*?-->|<(?!b>)[^>]*>", "", charset.decode(body, declared)).replace("<b>", "")
        assert ours == "".join(map(chr, points)), name
