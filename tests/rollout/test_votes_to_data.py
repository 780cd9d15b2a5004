"""Votes through the router become rows that a data stage reads; without consent nothing is kept."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routed import Site, answers, in_loop, site, until, whole

from trivium.cli import main
from trivium.corpus.rows import record
from trivium.rollout import journal
from trivium.rollout.asked import Asked, asked
from trivium.rollout.plan import load_plan

PLAN = Path(__file__).parents[2] / "examples" / "rollout.yaml"
YES = {"consent": "yes"}


def texts_of(here: Site) -> Path:
    assert here.ledger.texts is not None
    return here.ledger.texts.path


@pytest.fixture
def voted(tmp_path: Path) -> Path:
    """A folder with a log and texts: what eight users said of replies."""
    log, texts = tmp_path / "log.jsonl", tmp_path / "texts.jsonl"

    async def numbered(request: Any, body: dict[str, Any]) -> Any:
        numbered.count += 1
        return await answers(whole(f"Reply {numbered.count}. Write to ann@firm.org."))(request, body)

    numbered.count = 0

    async def work() -> None:
        async with site(log, numbered, numbered, texts=texts, unit="user") as here:

            async def ask(user: str, **more: Any) -> str:
                status, _, headers = await here.ask(user, **more)
                assert status == 200
                return str(headers["x-trivium-request"])

            up, down, both = [await ask(user, metadata=YES) for user in ("a", "b", "c")]
            silent = await ask("d")  # no consent
            first, second, third = [await ask("e", metadata=YES, stream=False) for _ in range(3)]
            other = await ask(
                "e", metadata=YES, messages=[{"role": "user", "content": "Why is the sea salty?"}]
            )
            for request in (up, silent, both, both):
                assert await here.vote(request) == 200
            assert (
                await here.vote(down, 1.0, "thumbs_down") == await here.vote(both, 0.0, "thumbs_down") == 200
            )
            assert await here.vote(both, 1.0, "success") == 200
            for better, worse, status in (
                (second, first, 200), (second, first, 200), (third, second, 200), (second, third, 200), (first, other, 200),
                (first, "0" * 24, 404), ("0" * 24, first, 404), (first, first, 400),
            ):  # fmt: skip
                body = {"id": better, "over": worse}
                async with here.http.post(f"{here.url}/v1/feedback", json=body) as response:
                    assert response.status == status
            contrary = await ask("f", metadata=YES)
            assert await here.vote(contrary) == await here.vote(contrary, 1.0, "thumbs_down") == 200
            await until(lambda: not here.ledger.underway)
            assert texts_of(here).stat().st_mode & 0o777 == 0o600

    asyncio.run(work())
    return tmp_path


def export(
    folder: Path, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, list[dict[str, Any]]]:
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    command = [
        "feedback",
        "export",
        str(folder / "log.jsonl"),
        "--texts",
        str(folder / "texts.jsonl"),
        "--out",
        str(out),
    ]
    with pytest.raises(SystemExit) as stopped:
        main([*command, *words])
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return int(stopped.value.code or 0), shown.out + shown.err, rows


def test_thumbs_are_feedback(voted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, rows = export(voted, capsys)
    assert code == 0 and [row["label"] for row in rows] == [1, 1, 0]
    assert (
        "1" in shown
        and "no consent" in shown
        and "up and down at once: 1" in shown
        and "replaced: email: 3" in shown
    )
    assert rows[0]["completion"] == "Reply 1. Write to <EMAIL>." and rows[0]["prompt"][0]["role"] == "user"
    for row in rows:
        read = record(row, "feedback")
        assert read["meta"]["arm"] in ("stable", "candidate") and read["meta"]["candidate"] == "stub"
    again = (voted / "out.jsonl").read_bytes()
    export(voted, capsys)
    assert (voted / "out.jsonl").read_bytes() == again


def test_choices_are_preferences(voted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, rows = export(voted, capsys, "--kind", "preferences", "--keep-personal")
    assert code == 0 and len(rows) == 1
    assert (
        "chosen both ways: 2" in shown
        and "replies to different words: 1" in shown
        and "<EMAIL>" not in str(rows)
    )
    read = record(rows[0], "preferences")
    assert (read["chosen"][:8], read["rejected"][:8]) == ("Reply 6.", "Reply 5.")


@in_loop
async def test_edits_and_regenerations_are_preferences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a user wrote anew, and what a user let stand after asking anew, go before the reply that was there."""
    count = itertools.count(1)

    async def numbered(request: Any, body: dict[str, Any]) -> Any:
        return await answers(whole(f"Reply {next(count)}."))(request, body)

    async with site(
        tmp_path / "log.jsonl", numbered, numbered, texts=tmp_path / "texts.jsonl", unit="user"
    ) as here:

        async def ask(user: str, **more: Any) -> str:
            return str((await here.ask(user, **more))[2]["x-trivium-request"])

        async def edit(request: str, text: str) -> int:
            async with here.http.post(
                f"{here.url}/v1/feedback", json={"id": request, "edit": text}
            ) as response:
                return response.status

        edited, silent, same = [
            await ask(user, **more)
            for user, more in (("a", {"metadata": YES}), ("b", {}), ("c", {"metadata": YES}))
        ]
        assert await edit(edited, "Reply none, mended.") == await edit(edited, "Reply 1, mended.") == 200
        assert await edit(edited, "Reply 1, mended.") == 200  # sent again
        assert await edit(silent, "Of whom nothing may be kept.") == 409
        assert (
            await edit(same, " Reply 3.\n") == 200
            and await edit(same, " \n") == 400
            and await edit("0" * 24, "x") == 404
        )
        first, second, third = [await ask("d", metadata=YES) for _ in range(3)]  # asked anew twice
        for request in (first, second):
            assert await here.vote(request, metric="regenerated") == 200
        chosen, over = [await ask("e", metadata=YES) for _ in range(2)]  # a choice says more than the order
        assert await here.vote(chosen, metric="regenerated") == 200
        async with here.http.post(f"{here.url}/v1/feedback", json={"id": chosen, "over": over}) as response:
            assert response.status == 200
        alone = await ask("f", metadata=YES)
        assert await here.vote(alone, metric="regenerated") == 200
        await here.written()
    code, shown, rows = export(tmp_path, capsys, "--kind", "preferences")
    assert code == 0 and "equal replies: 1" in shown and "nothing that was let stand: 1" in shown
    pairs = {(row["chosen"], row["rejected"]) for row in rows}
    assert pairs == {
        ("Reply 7.", "Reply 8."), ("Reply 6.", "Reply 4."), ("Reply 6.", "Reply 5."), ("Reply 1, mended.", "Reply 1."),
    }  # fmt: skip
    assert sum(row["meta"].get("edited", False) for row in rows) == 1 and all(
        record(row, "preferences") for row in rows
    )
    assert "mended" not in (tmp_path / "log.jsonl").read_text() and third
    assert "of whom nothing" not in (tmp_path / "texts.jsonl").read_text().lower()


def test_what_is_old_or_nothing_says_so(voted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = voted / "texts.jsonl"
    rows = [{**row, "at": "2020-01-01T00:00:00+00:00"} for row in journal.read(texts)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, shown, _ = export(voted, capsys, "--since", "30d")
    assert code == 3 and "too old" in shown
    assert (
        export(voted, capsys, "--since", "soon")[0] == 2 and export(voted, capsys, "--kind", "votes")[0] == 2
    )


def test_the_log_holds_no_words(voted: Path) -> None:
    assert "bees" not in (voted / "log.jsonl").read_text().lower()
    kept = [row["unit"] for row in journal.read(voted / "texts.jsonl")]
    assert len(kept) == 8 and len(set(kept)) == 5


KEYS = (
    "messages",
    "input",
    "prompt",
    "system",
    "role",
    "content",
    "text",
    "user",
    "metadata",
    "conversation",
    "model",
)
bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just("user"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(KEYS), bodies, max_size=6),
    st.sampled_from(["user", "conversation", "request"]),
)
def test_bodies_of_any_shape_are_read(body: dict[str, Any], unit: str) -> None:
    raw = json.dumps(body).encode()
    plan = load_plan(PLAN).model_copy(update={"unit": unit})
    found = asked("/v1/responses", {}, raw, plan)
    assert found.unit is None or isinstance(found.unit, str)
    assert (
        isinstance(found.words, str)
        and found.bytes_for(None) == raw
        and not found.streamed
        and not found.consents
    )
    for turn in found.turns or ():
        assert isinstance(turn["content"], str) and turn["role"] in ("system", "user", "assistant")


@pytest.mark.parametrize(
    ("body", "turns"),
    [
        ({"input": "Hi"}, [("user", "Hi")]),
        (
            {"instructions": "Be kind.", "input": [{"role": "developer", "content": "Now."}]},
            [("system", "Be kind."), ("system", "Now.")],
        ),
        (
            {
                "system": [{"type": "text", "text": "A"}],
                "messages": [{"role": "user", "content": [{"text": "B"}]}],
            },
            [("system", "A"), ("user", "B")],
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None),
        ({"messages": [{"role": "tool", "content": "4"}]}, None),
        ({"messages": ["x"]}, None),
        ({"prompt": "Once"}, None),
        ({"messages": 3}, None),
    ],
)
def test_turns_of_four_apis(body: dict[str, Any], turns: Any) -> None:
    wanted = None if turns is None else [{"role": role, "content": content} for role, content in turns]
    assert Asked("/v1/chat/completions", body, b"", None).turns == wanted
