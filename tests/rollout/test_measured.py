"""What bytes amount to: however they are cut into pieces, in the words of four APIs, and garbage is told from replies."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routed import STREAM, WORDS, whole

from trivium.rollout.replies import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    Limits,
    NotOne,
    Seen,
    first_fault,
    measure,
    read,
)

JSON, EVENTS = "application/json", "text/event-stream"
ALL = ("error", "slow", "slow_start", "empty", "cut", "repeated", "refusal", "log_latency", "log_first_token")
LIMITS = Limits(10.0, 1.0, frozenset(ALL))


def event(value: object, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(value).encode() + b"\n\n"


def anthropic(text: str, reason: str = "end_turn", end: bool = True) -> bytes:
    pieces = [
        event({"type": "message_start", "message": {"usage": {"input_tokens": 7}}}, "message_start"),
        event(
            {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
            "content_block_start",
        ),
        b": ping\n\n",
        event(
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}},
            "content_block_delta",
        ),
        event(
            {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 3}},
            "message_delta",
        ),
        event({"type": "message_stop"}, "message_stop") if end else b"",
    ]
    return b"".join(pieces)


USAGE = {"input_tokens": 7, "output_tokens": 3}


def response(text: str, status: str = "completed") -> dict:
    item = {"type": "message", "content": [{"type": "output_text", "text": text}]}
    details = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {"status": status, "output": [item], "incomplete_details": details, "error": None, "usage": USAGE}


def responses(text: str, status: str = "completed") -> bytes:
    first = event(
        {"type": "response.created", "response": {"status": "in_progress", "error": None}}, "response.created"
    )
    delta = event({"type": "response.output_text.delta", "delta": text}, "response.output_text.delta")
    name = f"response.{status}"
    return first + delta + event({"type": name, "response": response(text, status)}, name)


def message(text: str, reason: str = "end_turn") -> bytes:
    content = [{"type": "text", "text": text}] if text else []
    return json.dumps({"type": "message", "content": content, "stop_reason": reason, "usage": USAGE}).encode()


def completion(text: str, reason: str = "stop") -> bytes:
    return json.dumps({"choices": [{"text": text, "index": 0, "finish_reason": reason}]}).encode()


SAID = (("Hello there.",), ("Hello there.", "incomplete"), ("",))
SAME = [
    (CHAT, False, whole("Hello there."), whole("Hello there.", "length"), whole("")),
    (COMPLETIONS, False, completion("Hello there."), completion("Hello there.", "length"), completion(" ")),
    (MESSAGES, False, message("Hello there."), message("Hello there.", "max_tokens"), message("")),
    (RESPONSES, False, *(json.dumps(response(*said)).encode() for said in SAID)),
    (MESSAGES, True, anthropic("Hello there."), anthropic("Hello there.", "max_tokens"), anthropic("")),
    (RESPONSES, True, responses("Hello there."), responses("Hello there.", "incomplete"), responses("")),
]  # fmt: skip


@pytest.mark.parametrize(("route", "streamed", "good", "cut", "empty"), SAME)
def test_four_apis_say_the_same(route: str, streamed: bool, good: bytes, cut: bytes, empty: bytes) -> None:
    kind = EVENTS if streamed else JSON
    assert first_fault(route, kind, streamed, good) is None
    for body, wanted in ((good, (0, 0)), (cut, (1, 0)), (empty, (0, 1))):
        seen = Seen(route, streamed, 200, kind, ((0.5, body),), took=2.0)
        found, why = measure(seen, LIMITS)
        assert why == "" and found["error"] == 0 and (found["cut"], found["empty"]) == wanted
        assert found["log_latency"] == math.log(2) and found["slow"] == 0
        timed = streamed and body != empty
        assert found["log_first_token"] == (math.log(0.5) if timed else None)
    assert "".join(read(route, kind, streamed, ((0.5, good),)).texts.values()) == "Hello there."


@given(st.lists(st.integers(0, len(b"".join(STREAM))), max_size=12), st.booleans())
def test_pieces_do_not_matter(places: list[int], windows: bool) -> None:
    body = b"".join(STREAM)
    if windows:
        body = body.replace(b"\n", b"\r\n")
    edges = [0, *sorted(min(place, len(body)) for place in places), len(body)]
    chunks = [(float(n), body[a:b]) for n, (a, b) in enumerate(pairwise(edges))]
    reply = read(CHAT, EVENTS, True, chunks)
    assert reply.texts == {0: "".join(WORDS)} and reply.end == "stop" and reply.first is not None


@given(st.binary(max_size=200), st.sampled_from([CHAT, COMPLETIONS, RESPONSES, MESSAGES]), st.booleans())
def test_garbage_is_an_error_and_never_a_crash(body: bytes, route: str, streamed: bool) -> None:
    seen = Seen(route, streamed, 200, EVENTS if streamed else JSON, ((0.1, body),), took=0.1)
    found, why = measure(seen, LIMITS)
    assert found["error"] == 1 and why and found["empty"] is None


KEYS = ["choices", "delta", "message", "content", "type", "output", "text", "error"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
)  # fmt: skip


@given(json_values, st.sampled_from([CHAT, COMPLETIONS, RESPONSES, MESSAGES]), st.booleans())
def test_json_of_any_shape_is_measured(value: object, route: str, streamed: bool) -> None:
    body = event(value) if streamed else json.dumps(value).encode()
    found, _ = measure(
        Seen(route, streamed, 200, EVENTS if streamed else JSON, ((0.1, body),), took=0.1), LIMITS
    )
    assert found["error"] in (0, 1)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (MESSAGES, anthropic("Hello", end=False)),
        (
            MESSAGES,
            anthropic("Hel") + event({"type": "error", "error": {"type": "overloaded_error"}}, "error"),
        ),
        (CHAT, STREAM[0] + event({"error": {"message": "out of memory"}})),
        (CHAT, b"".join(STREAM[:2])),
        (RESPONSES, responses("Hello", "failed")),
    ],
)
def test_streams_that_fail_late_are_errors(route: str, body: bytes) -> None:
    assert first_fault(route, EVENTS, True, body) is None  # it began well
    with pytest.raises(NotOne):
        read(route, EVENTS, True, ((0.1, body),))


def test_what_a_reply_says() -> None:
    def of(text: str, **more: object) -> dict[str, float | None]:
        seen = Seen(
            CHAT, False, 200, JSON, ((0.1, whole(text)),), 0.1, request="How do I bake bread?", **more
        )
        return measure(seen, LIMITS)[0]

    assert of("I'm sorry, but I can't help with that.")["refusal"] == 1
    assert of("Mix flour and water, and wait.")["refusal"] == 0
    assert of("the same words over and over " * 20)["repeated"] == 1
    assert of("the same words over and over ")["repeated"] == 0
    assert of("x", left=True) == dict.fromkeys(ALL)
    assert of("x", readable=False)["empty"] is None and of("x", readable=False)["error"] == 0
    slow = measure(Seen(CHAT, False, 0, took=11.0, left=True), LIMITS)[0]
    assert slow["slow"] == 1 and slow["error"] is None


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1e3), st.floats(0, 1e3))
def test_cost_is_tokens_times_prices_of_the_arm(given_: int, made: int, input_: float, output: float) -> None:
    """In every API, streamed or not; without counted tokens or without a price nobody knows it."""
    limits = Limits(10.0, 1.0, frozenset({"cost"}))
    one, two = (given_, made), {"input_tokens": given_, "output_tokens": made}
    openai = {"prompt_tokens": given_, "completion_tokens": made}
    chunk = {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}
    said = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
    start = event({"type": "message_start", "message": {"usage": {"input_tokens": given_}}})
    end = event({"type": "message_delta", "delta": {}, "usage": {"output_tokens": made}})
    bodies = [
        (CHAT, False, json.dumps(said | {"usage": openai}).encode()),
        (CHAT, True, event(chunk) + event({"choices": [], "usage": openai}) + b"data: [DONE]\n\n"),
        (MESSAGES, False, json.dumps({"content": [], "stop_reason": "end_turn", "usage": two}).encode()),
        (MESSAGES, True, start + end + event({"type": "message_stop"})),
        (RESPONSES, False, json.dumps(response("x") | {"usage": two}).encode()),
    ]
    for route, streamed, body in bodies:
        seen = Seen(
            route, streamed, 200, EVENTS if streamed else JSON, ((0.1, body),), price=(input_, output)
        )
        assert measure(seen, limits) == ({"cost": (one[0] * input_ + one[1] * output) / 1e6}, "")
        free = Seen(route, streamed, 200, EVENTS if streamed else JSON, ((0.1, body),))
        assert measure(free, limits) == ({"cost": None}, "")
    silent = Seen(CHAT, False, 200, JSON, ((0.1, whole("x")),), price=(1.0, 1.0))
    assert measure(silent, limits) == ({"cost": None}, "")


def test_tools_and_declared_refusals_are_not_empty() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}
    declined = {"role": "assistant", "content": None, "refusal": "No."}
    for words, refusal in ((called, 0), (declined, 1)):
        body = json.dumps({"choices": [{"message": words, "finish_reason": "stop"}]}).encode()
        found, _ = measure(Seen(CHAT, False, 200, JSON, ((0.1, body),), 0.1), LIMITS)
        assert (found["empty"], found["refusal"]) == (0, refusal)
