"""llama.cpp's own tests of its server (tools/server/tests of its repository), against ours and against llama.cpp's.

    python benchmarks/server_tests.py LLAMA_CPP/tools/server/tests --files basic tokenize chat_completion

The sources of llama-cpp-python hold that folder (`pip download --no-deps --no-binary :all: llama-cpp-python`). Both servers have
SmolLM2-135M (xllamacpp is llama.cpp's), while many tests expect another model's words, or switches that each test gives its
server: they fail at llama.cpp's, too, and say nothing. What counts is what llama.cpp passes. Requests are sent under /v1 and
with the model's name where they lack it: ours asks for both. Prints, for each file, how many tests both pass, ours alone,
llama.cpp alone and neither; and why ours fails what llama.cpp passes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import smollm2
import soak

FILES = (
    "basic",
    "security",
    "tokenize",
    "chat_completion",
    "completion",
    "compat_anthropic",
    "compat_oai_responses",
)
NAME = "gpt-3.5-turbo-instruct"
PLUGIN = f"""
import sys, types
import requests
sys.modules["wget"] = types.ModuleType("wget")  # it would download models
real = requests.Session.request
bare = ("/chat/completions", "/completions", "/models", "/messages", "/responses")

def request(self, method, url, **given):
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    path = "/" + path
    if path.startswith(bare):
        path = "/v1" + path
    if path.startswith("/v1/") and isinstance(given.get("json"), dict):
        given["json"] = {{**given["json"], "model": "{NAME}"}}
    given["timeout"] = min(given.get("timeout") or 30, 30)
    return real(self, method, f"{{scheme}}://{{host}}{{path}}", **given)

requests.Session.request = request

def pytest_collection_finish(session):
    import utils
    utils.ServerPreset.load_all = staticmethod(lambda: None)
"""


def run(tests: Path, name: str, port: int, folder: Path) -> dict[str, str]:
    """Test -> "" if it passes, else the line that says why not; skipped ones are left out."""
    out = folder / "found.xml"
    environment = {**os.environ, "DEBUG_EXTERNAL": "1", "PORT": str(port), "PYTHONPATH": str(folder)}
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "bare_requests", "-p", "no:cacheprovider", "-o", "addopts=",
        f"--junitxml={out}", f"unit/test_{name}.py",
    ]  # fmt: skip
    subprocess.run(command, cwd=tests, env=environment, stdout=subprocess.DEVNULL, check=False)
    found = {}
    for case in ElementTree.parse(out).iter("testcase"):
        if case.find("skipped") is not None:
            continue
        wrong = next((x for x in (case.find("failure"), case.find("error")) if x is not None), None)
        found[str(case.get("name"))] = (
            "" if wrong is None else str(wrong.get("message")).splitlines()[0][:200]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tests", type=Path)
    parser.add_argument("--files", nargs="+", default=FILES)
    parser.add_argument("--model", type=Path, help="a GGUF file")
    options = parser.parse_args()
    model = options.model or smollm2.weights()
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    trivium = [sys.executable, "-m", "trivium", "serve", str(model), "--name", NAME]
    serve = str(Path(__file__).with_name("serve.py"))
    theirs = [sys.executable, serve, "--be-llama", str(model), "--threads", "1", "--port", str(ports[1])]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*trivium, "--port", str(ports[0])], **quiet) as ours,  # type: ignore[call-overload]
        subprocess.Popen(theirs, **quiet) as other,  # type: ignore[call-overload]
    ):
        try:
            (Path(folder) / "bare_requests.py").write_text(PLUGIN, encoding="utf-8")
            asyncio.run(soak.ready(ports[0], ours))
            asyncio.run(soak.ready(ports[1], other, "/health"))
            print("| file | both | ours alone | llama.cpp alone | neither |\n|---|---:|---:|---:|---:|")
            why = []
            for name in options.files:
                mine, their = (run(options.tests, name, port, Path(folder)) for port in ports)
                counts = [
                    sum((not mine.get(test, "-"), not their[test]) == pair for test in their)
                    for pair in ((True, True), (True, False), (False, True), (False, False))
                ]
                print(f"| test_{name} | {' | '.join(map(str, counts))} |", flush=True)
                why += [f"{test}: {mine[test]}" for test in their if mine.get(test) and not their[test]]
            print("\nours alone fails:", *(re.sub(r"\s+", " ", line) for line in why), sep="\n- ")
        finally:
            ours.terminate()
            other.kill()


if __name__ == "__main__":
    main()
