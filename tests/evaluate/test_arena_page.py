"""The arena in Chromium and PostgreSQL: two raters at once, a reload, a kill in the middle; nothing lost, nothing double."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trivium import files
from trivium.evaluate import rows as table
from trivium.evaluate.people.tasks import Table, tasks
from trivium.evaluate.people.votes import Vote, Votes, standing
from trivium.evaluate.rows import Row

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
HOSTILE = "<img src=x onerror=\"window.ran = 'image'\"><script>window.ran = 'script'</script>"
PAIRS = 12


def rows(count: int = PAIRS) -> list[Row]:
    return [
        Row(
            "redteam", "harmful/direct", f"c{n}", f"i{n}", model, 0,
            files.canonical_json([{"role": "user", "content": f"question {n}"}]), "t", "f",
            f"reply {n} of style {style} {HOSTILE}", "refused", "hit", "", 1.0, 1.0, 0.1,
        )
        for n in range(count)
        for model, style in (("mod-a", "plain"), ("mod-b", "long"))
    ]  # fmt: skip


def arena(folder: Path, port: int) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """The running server and the raters' links."""
    words = ["arena", "safety", "--rater", "ann", "--rater", "bob", "--port", str(port)]
    command = [sys.executable, "-c", "from trivium.cli import main; import sys; main(sys.argv[1:])", *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    links: dict[str, str] = {}
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(r"(\w+): (http://\S+)", line):
            links[found[1]] = found[2]
        if line.startswith("Ctrl-C"):
            return process, links
    raise AssertionError("the arena ended")


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_two_raters_a_reload_and_a_kill_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    (tmp_path / "safety").mkdir()
    table.write(tmp_path / "safety" / table.FILE, rows())
    minutes = 120_000
    first, links = arena(tmp_path, 0)
    servers = [first]
    port = int(links["ann"].split(":")[2].split("/")[0])
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

            def opened(name: str) -> Any:
                page = browser.new_context(bypass_csp=True).new_page()
                page.goto(links[name])
                return page

            def at(page: Any, done: int) -> None:
                page.wait_for_function(
                    "text => document.getElementById('progress').textContent === text",
                    arg=f"{done} of {PAIRS}",
                    timeout=minutes,
                )

            ann, bob = opened("ann"), opened("bob")
            for nth in range(4):  # by turns, by keyboard
                for page, key in ((ann, "1"), (bob, "3")):
                    at(page, nth)
                    assert "mod-a" not in page.content() and "mod-b" not in page.content()
                    page.keyboard.press(key)
            at(ann, 4)
            ann.keyboard.press("u")
            at(ann, 3)
            ann.keyboard.press("r")
            ann.keyboard.type("it is right, 1 2 3")
            ann.keyboard.press("Enter")
            ann.check("#consent")
            ann.click("#right")
            at(ann, 4)
            assert ann.is_checked("#consent") and not bob.is_checked("#consent")
            ann.reload()
            at(ann, 4)

            stop(servers.pop())
            ann.keyboard.press("2")
            bob.keyboard.press("4")
            for page in (ann, bob):
                page.wait_for_selector("#note.unsaved", timeout=minutes)
                page.keyboard.press("1")  # nothing more can be said before the first is stored
            servers.append(arena(tmp_path, port)[0])
            bob.wait_for_function(
                "document.getElementById('progress').textContent.startsWith('5 ')", timeout=minutes
            )
            at(ann, 5)
            for nth in range(5, PAIRS):
                at(ann, nth)
                ann.keyboard.press("ArrowLeft")
            at(ann, PAIRS)
            ann.get_by_text("That was all").wait_for(timeout=minutes)
            assert ann.evaluate("window.ran") is None and bob.evaluate("window.ran") is None
            browser.close()
    finally:
        for server in servers:
            stop(server)
    votes = Votes(tmp_path / "votes.sqlite")
    log = votes.log()
    counted = Counter((vote.rater, vote.choice) for vote in standing(log))
    votes.close()
    assert counted == {
        ("ann", "left"): 3 + PAIRS - 5, ("ann", "right"): 2, ("bob", "tie"): 4, ("bob", "bad"): 1,
    }  # fmt: skip
    assert len(log) == sum(counted.values()) + 2  # ann's undone vote, and the undo
    assert [vote.reason for vote in log if vote.reason] == ["it is right, 1 2 3"]
    assert {vote.consent for vote in log if vote.rater == "bob"} == {False}


@pytest.fixture
def database() -> Iterator[str]:
    """A PostgreSQL of its own, which listens on a socket in a folder only. As root it runs as postgres, who may not look into
    pytest's folders."""
    binaries, folder = SERVERS[-1].parent, Path(tempfile.mkdtemp())
    who = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir()
    if who:
        shutil.chown(data, "postgres")
    control = [*who, str(binaries / "pg_ctl"), "-D", str(data), "-w", "-t", "300", "-s"]
    options = f"-k {data} -c listen_addresses= -c fsync=off"
    try:
        made = subprocess.run(
            [*who, str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-N", "-U", "postgres"],
            capture_output=True, text=True, cwd="/",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        subprocess.run([*control, "-l", str(data / "log"), "-o", options, "start"], check=True, cwd="/")
        yield f"postgresql+psycopg://postgres@/postgres?host={data}"
    finally:
        subprocess.run([*control, "stop", "-m", "immediate"], cwd="/")
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(not SERVERS, reason="PostgreSQL is not installed")
def test_votes_in_postgresql_are_those_of_sqlite(database: str, tmp_path: Path) -> None:
    found = tasks([Table("e1", "s", rows(3))])[0]
    logs = []
    for where in (database, str(tmp_path / "votes.sqlite")):
        votes = Votes(where)
        again = Votes(where)
        assert votes.raters() == {} and votes.rater("ann") == again.rater("ann")
        votes.keep(found)
        again.keep(found)
        for n, task in enumerate(found):
            sent = Vote(
                f"key{n}",
                task.id,
                "ann",
                "left",
                "mod-b",
                "mod-a",
                "t t",
                "weil: é",
                True,
                n == 1,
                0.5,
                "2026",
            )
            assert votes.add(sent) and not again.add(sent)
        assert set(votes.tasks()) == {task.id for task in found}
        logs.append(again.log())
        for one in (votes, again):
            one.close()
    assert logs[0] == logs[1] and len(logs[0]) == 3
