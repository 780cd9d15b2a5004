"""However a reply is cut into tokens, its pieces joined are its text up to the first stop string; calls are told from content."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trivium.generate.batcher import Token
from trivium.serve.tools import CLOSE, OPEN, Reader
from trivium.serve.words import Choice, Delta
from trivium.text.chat import ChatTokenizer


@given(
    text=st.text(alphabet="abé😀 \n", max_size=30),
    stop=st.lists(st.text(alphabet="abé😀", min_size=1, max_size=4), max_size=1),
)
def test_pieces_joined_are_the_text_before_the_first_stop(
    chat: ChatTokenizer, text: str, stop: list[str]
) -> None:
    deltas: list[Delta] = []
    choice = Choice(0, chat.decode, deltas.append, stop=stop)
    reason = None
    tokens = [Token(token, -1.0) for token in chat.guard.plain(text)]
    for token in tokens:
        if reason is None:
            reason = choice.watch(token)
    choice.end(reason or "length")
    cut = min((place for s in stop if (place := text.find(s)) >= 0), default=len(text))
    assert "".join(delta.text for delta in deltas) == text[:cut]
    assert [delta.finish for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].text == ""
    assert deltas[-1].finish == ("stop" if cut < len(text) else "length")
    if cut == len(text):
        assert [token for delta in deltas for token in delta.tokens] == tokens


CALL = f'{OPEN}\n{{"name": "paint", "arguments": {{"colour": "red"}}}}\n{CLOSE}'
NONE = f"{OPEN}not JSON{CLOSE}"


@given(
    parts=st.lists(st.sampled_from(["words ", CALL, NONE, "<tool", "é"]), max_size=6), size=st.integers(1, 9)
)
def test_calls_are_told_from_content_however_they_come(parts: list[str], size: int) -> None:
    text = "".join(parts)
    reader, content, calls = Reader(frozenset({"paint"})), "", []
    for start in range(0, len(text), size):
        more, new = reader.push(text[start : start + size])
        content, calls = content + more, calls + new
    rest, new = reader.rest()
    assert len(calls) + len(new) == parts.count(CALL)
    assert (content + rest) == text.replace(CALL, "")
