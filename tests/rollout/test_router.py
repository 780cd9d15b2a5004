"""The router between a client and two arms: bytes, retries, counts at the arms, disconnects."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest
from routed import CHAT, STREAM, Handler, Site, answers, event, site, until, whole

EVERYBODY = {"stages": [{"share": 1.0, "min_units": 10_000}]}
"""The candidate gets all requests."""


def run(log: Path, work: Any, **changes: Any) -> Any:
    async def inside() -> Any:
        async with site(log, **changes) as here:
            return await work(here)

    return asyncio.run(inside())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def test_bytes_and_headers_are_the_arms(log: Path) -> None:
    async def work(here: Site) -> None:
        status, body, headers = await here.ask()
        assert (status, body, headers["x-arm"]) == (200, whole(), "yes") and len(
            headers["x-trivium-request"]
        ) == 24
        status, body, headers = await here.ask(stream=True)
        assert (status, body) == (200, b"".join(STREAM)) and headers["content-type"].startswith(
            "text/event-stream"
        )
        refusal = b'{"error": {"message": "no such model"}}'
        here.stable.handler = here.candidate.handler = answers(refusal, 404)
        assert (await here.ask())[:2] == (404, refusal)
        async with here.http.get(here.url + "/v1/models") as response:
            assert (await response.json())["data"] == [{"id": "model"}]
        await here.ask(path="/v1/completions?a=%20b")
        await here.ask(path="/tokenize")
        async with here.http.get(here.url + "/v1/other") as response:
            assert response.status == 404

    run(log, work)


def test_a_stream_comes_as_it_is_written(log: Path) -> None:
    """The second piece is written only once the client has told that it has the first."""
    told = asyncio.Event()

    async def slowly(request: Any, _: Any) -> Any:
        from aiohttp import web

        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(STREAM[0])
        await told.wait()
        for piece in STREAM[1:]:
            await response.write(piece)
        return response

    async def work(here: Site) -> None:
        async with here.http.post(here.url + CHAT, json={"stream": True, "messages": []}) as response:
            assert await response.content.read(len(STREAM[0])) == STREAM[0]
            told.set()
            assert await response.content.read() == b"".join(STREAM[1:])

    run(log, work, stable=slowly, candidate=slowly)


def test_the_model_is_called_what_the_arm_calls_it(log: Path) -> None:
    async def work(here: Site) -> None:
        here.router.arms["candidate"].arm = here.router.arms["candidate"].arm.model_copy(
            update={"model": "theirs"}
        )
        await here.ask(temperature=0.5)
        assert here.candidate.seen[0]["model"] == "theirs" and here.candidate.seen[0]["temperature"] == 0.5

    run(log, work, **EVERYBODY)


def test_a_unit_keeps_its_arm_and_only_named_units_are_tried(log: Path) -> None:
    async def work(here: Site) -> None:
        for _ in range(3):
            for number in range(20):
                await here.ask(f"user-{number}")
        users = [body["user"] for body in here.candidate.seen]
        assert 3 * len(set(users)) == len(users) and 0 < len(set(users)) < 20
        before = len(here.stable.seen)
        await here.ask(None)
        await here.ask("boss")
        assert len(here.stable.seen) == before + 2 and here.router.counts["unnamed"] == 1
        header = {"x-trivium-user": users[0]}
        async with here.http.post(here.url + CHAT, json={"user": "else"}, headers=header) as response:
            assert response.status == 200
        assert here.candidate.seen[-1]["user"] == "else"
        events = await here.written()
        assert len(events) == 62 and not any("user-" in str(line) for line in events[1:])

    run(log, work, unit="user", excluded=["boss"])


BAD: list[tuple[str, Handler, bool]] = [
    ("status 500", answers(b"{}", 500), False),
    ("status 400", answers(b"{}", 400), False),
    ("an error inside", answers(b'{"error": {"message": "out of memory"}}'), False),
    ("NaN", answers(whole().replace(b'"stop"', b"NaN")), False),
    ("another content type", answers(b"<html>", content_type="text/html"), False),
    ("no JSON", answers(b'{"choices": [{"mess'), False),
    ("no choices", answers(b'{"choices": []}'), False),
    ("cut", answers(b'{"choi', then="cut"), False),
    ("no stream", answers(whole()), True),
    ("garbage", answers(b"data: {{{\n\n", content_type="text/event-stream"), True),
    ("an error as first event", answers(b'data: {"error": "x"}\n\n', content_type="text/event-stream"), True),
    ("a stream without an event", answers(b": ping\n\n", content_type="text/event-stream"), True),
    ("cut before its first event", answers(b"data: {", content_type="text/event-stream", then="cut"), True),
]  # fmt: skip


@pytest.mark.parametrize(("handler", "stream"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_fails_before_its_first_byte_is_answered_by_stable(
    log: Path, handler: Handler, stream: bool
) -> None:
    async def work(here: Site) -> None:
        status, body, _ = await here.ask(stream=stream)
        assert status == 200 and body == (b"".join(STREAM) if stream else whole())
        assert len(here.candidate.seen) >= 1 and len(here.stable.seen) == 1
        (request,) = (line for line in await here.written() if line["event"] == "request")
        assert request["arm"] == "candidate" and request["metrics"]["error"] == 1 and request["why"]
        assert request["metrics"]["log_latency"] is None

    run(log, work, candidate=handler, **EVERYBODY)


def test_an_arm_that_hangs_is_given_up(log: Path) -> None:
    async def work(here: Site) -> None:
        def hurry(arm: str) -> None:
            upstream = here.router.arms[arm]
            upstream.arm = upstream.arm.model_copy(update={"patience": 0.2})

        hurry("candidate")
        assert (await here.ask())[1] == whole()
        here.stable.handler = here.candidate.handler
        hurry("stable")
        status, body, _ = await here.ask()
        assert status == 504 and b"silence" in body

    run(log, work, candidate=answers(b"", pause=3600), **EVERYBODY)


def test_a_stream_that_breaks_off_breaks_off(log: Path) -> None:
    import aiohttp

    async def work(here: Site) -> None:
        with pytest.raises(aiohttp.ClientPayloadError):
            await here.ask(stream=True)
        here.candidate.handler = answers(event("Bees"), content_type="text/event-stream")
        assert (await here.ask(stream=True))[:2] == (200, event("Bees"))  # well ended, but without its end
        requests = [line for line in await here.written() if line["event"] == "request"]
        assert [line["metrics"]["error"] for line in requests] == [1, 1] and len(here.stable.seen) == 0

    run(
        log, work, candidate=answers(event("Bees"), content_type="text/event-stream", then="cut"), **EVERYBODY
    )


def test_a_client_that_leaves_frees_its_arm(log: Path) -> None:
    """Long before the router's own patience with the arm would have ended."""

    async def work(here: Site) -> None:
        response = await here.http.post(here.url + CHAT, json={"stream": True, "user": "ann"})
        assert await response.content.read(4)
        response.close()
        await until(lambda: here.candidate.left == 1, 30)
        here.candidate.handler = answers(b"", pause=3600)
        waiting = asyncio.create_task(here.ask())
        await until(lambda: len(here.candidate.seen) == 2)
        waiting.cancel()
        await until(lambda: here.candidate.left == 2, 30)
        requests = [line for line in await here.written() if line["event"] == "request"]
        assert [line["left"] for line in requests] == [True, True]
        assert all(set(line["metrics"].values()) == {None} for line in requests)

    run(
        log,
        work,
        candidate=answers(event("Bees"), content_type="text/event-stream", then="hangs"),
        **EVERYBODY,
    )


def test_an_arm_that_fails_in_a_row_rests_and_is_tried_again(log: Path) -> None:
    async def work(here: Site) -> None:
        await here.candidate.stop()
        for _ in range(8):
            assert (await here.ask())[1] == whole()
        breaker = here.router.arms["candidate"].breaker
        assert not breaker.closed
        port = here.candidate.port
        await here.candidate.start()
        assert here.candidate.port == port
        assert (await here.ask())[1] == whole() and not here.candidate.seen  # it rests still
        breaker.until = 0.0
        assert (await here.ask())[1] == whole() and len(here.candidate.seen) == 1 and breaker.closed
        requests = [line for line in await here.written() if line["event"] == "request"]
        assert [line["metrics"]["error"] for line in requests] == [1] * 9 + [
            0
        ]  # assigned and not answered is failed

    run(log, work, **EVERYBODY)


def test_nobody_answers(log: Path) -> None:
    async def work(here: Site) -> None:
        await here.candidate.stop()
        await here.stable.stop()
        status, body, _ = await here.ask()
        assert status == 502 and b"candidate" in body
        await here.stable.start()
        await here.candidate.start()
        assert (await here.ask())[0] == 200

    run(log, work, **EVERYBODY)


def test_a_shadow_answers_nobody(log: Path) -> None:
    async def work(here: Site) -> None:
        for number in range(6):
            status, body, _ = await here.ask(f"user-{number}", stream=number % 2 == 0)
            assert status == 200 and body == (b"".join(STREAM) if number % 2 == 0 else whole())
        events = await here.written()
        copies = [line for line in events if line["event"] == "mirrored"]
        assert len(here.stable.seen) == len(here.candidate.seen) == len(copies) == 6
        assert all(line["metrics"]["empty"] == 1 and line["stable"]["empty"] == 0 for line in copies[1::2])
        status = await here.status()
        assert status["units"]["candidate"] == 6 and status["share"] == 0.0

    stages = [{"share": 0, "shadow": True, "min_units": 100, "decide": False}, {"share": 0.5}]
    run(log, work, candidate=answers(whole("")), unit="user", stages=stages)


def test_a_shadow_that_hangs_slows_nobody_down(log: Path) -> None:
    async def work(here: Site) -> None:
        for number in range(80):
            assert (await here.ask(f"user-{number}"))[0] == 200
        await until(lambda: len(here.candidate.seen) == 64)
        assert here.router.counts["unmirrored"] == 16
        here.router.stop_soon()

    stages = [{"share": 0, "shadow": True, "min_units": 100, "decide": False}, {"share": 0.5}]
    patient = {"patience": "1h"}  # however slow this machine is
    run(log, work, candidate=answers(b"", pause=3600), unit="user", stages=stages, of_arms=patient)


def test_pages_of_other_sites_and_other_names_are_refused(log: Path) -> None:
    async def work(here: Site) -> None:
        for headers in ({"Origin": "https://elsewhere.example"}, {"Host": "elsewhere.example"}):
            for path in (CHAT, "/rollout/rollback", "/v1/feedback"):
                async with here.http.post(here.url + path, json={}, headers=headers) as response:
                    assert response.status == 403
        assert not here.stable.seen and not here.candidate.seen

    run(log, work)


def test_bodies_that_are_too_large_are_refused(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivium.rollout.router.MOST", 1000)

    async def work(here: Site) -> None:
        assert (await here.ask(more="x" * 2000))[0] == 413
        assert not here.stable.seen and not here.candidate.seen

    run(log, work)


def test_what_is_wrong_with_a_body_is_the_arms_to_say(log: Path) -> None:
    async def work(here: Site) -> None:
        for body in (b"\xff{", b"[1]", b""):
            async with here.http.post(here.url + CHAT, data=body) as response:
                assert (response.status, await response.read()) == (400, b"{}")

    run(log, work, stable=answers(b"{}", 400), candidate=answers(b"{}", 400))


def test_a_request_that_is_still_connecting_does_not_reach_what_was_rolled_back(log: Path) -> None:
    """A candidate whose queue of connections is full: the kernel tries again in a second, the rollback is there before."""
    came: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read(1000))
        writer.close()

    async def work(here: Site) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
            address = full.getsockname()
            for _ in range(2):
                filling = stack.enter_context(socket.socket())
                filling.setblocking(False)
                filling.connect_ex(address)
            upstream = here.router.arms["candidate"]
            upstream.arm = upstream.arm.model_copy(update={"url": f"http://127.0.0.1:{address[1]}"})
            asking = asyncio.create_task(here.ask())
            await until(lambda: here.router.active == 1)
            await asyncio.sleep(0.3)
            assert (await here.do("rollback"))[0] == 200 and not asking.done()
            server = await asyncio.start_server(listen, sock=full)
            assert (await asking)[:2] == (200, whole())
            assert here.router.counts["retried"] == 0 and upstream.breaker.closed
            server.close()
        assert not any(came) and not here.candidate.seen
        (request,) = [row for row in await here.written() if row["event"] == "request"]
        assert (request["arm"], request["instead_of"], request["metrics"]["error"]) == (
            "stable",
            "candidate",
            0,
        )

    run(log, work, **EVERYBODY)


def test_a_connection_that_is_lost_after_a_rollback_is_not_made_again(log: Path) -> None:
    """A request on a connection that the other end had given up is sent anew: not to a candidate that is out by then."""
    told = asyncio.Event()

    async def gives_up(request: Any, _: Any) -> Any:
        await told.wait()
        request.transport.abort()
        raise ConnectionResetError

    async def work(here: Site) -> None:
        asking = asyncio.create_task(here.ask())
        await until(lambda: len(here.candidate.seen) == 1)
        await here.do("rollback")
        told.set()
        assert (await asking)[:2] == (200, whole())
        assert len(here.candidate.seen) == 1

    run(log, work, candidate=gives_up, **EVERYBODY)
