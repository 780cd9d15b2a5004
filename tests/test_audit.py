"""What CI says of vulnerabilities: pip-audit over the packages here, against a service of ours that speaks OSV's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parent.parent / ".ci" / "audit.py"
pytestmark = pytest.mark.slow


def vulnerability(name: str) -> dict[str, Any]:
    events = [{"introduced": "0"}, {"fixed": "999"}]
    affected = {
        "package": {"name": name, "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
    }
    return {"id": f"TEST-{name}", "summary": "of a test", "affected": [affected]}


@pytest.fixture
def service() -> Iterator[dict[tuple[str, str], dict[str, Any]]]:
    """(package, version) -> what is known against it; `url` in the environment leads there."""
    known: dict[tuple[str, str], dict[str, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found = known.get((asked["package"]["name"], asked["version"]))
            content = json.dumps({"vulns": [found]} if found else {}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["PIP_AUDIT_OSV_URL"] = f"http://127.0.0.1:{server.server_port}"
    yield known
    del os.environ["PIP_AUDIT_OSV_URL"]
    server.shutdown()
    server.server_close()


def audit() -> tuple[int, str]:
    command = [sys.executable, str(AUDIT), "--services", "osv"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_what_is_known_of_a_package_is_named_and_fails(service: Any) -> None:
    pytest.importorskip("pip_audit")
    service["jinja2", "2.4.1"] = vulnerability("jinja2")
    service["numpy", version("numpy")] = vulnerability("numpy")
    code, said = audit()
    assert (
        code == 1 and f"numpy {version('numpy')}: TEST-numpy; mended in 999" in said and "jinja2" not in said
    )


def test_nothing_known_is_fine_only_from_a_service_that_knows_something(service: Any) -> None:
    pytest.importorskip("pip_audit")
    code, said = audit()
    assert code == 3 and "knows nothing against jinja2==2.4.1" in said and "COULD NOT CHECK" in said
    service["jinja2", "2.4.1"] = vulnerability("jinja2")
    code, said = audit()
    assert (code, "COULD NOT CHECK" in said) in ((0, False), (3, True))  # 3: packages that pip-audit skips
    assert "packages checked" in said and "TEST" not in said


def test_a_service_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip_audit")
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", "http://127.0.0.1:9")
    code, said = audit()
    assert code == 3 and said.endswith("so nothing is known about any installed package\n")
