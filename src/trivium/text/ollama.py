"""A chat template in the words of Ollama's Modelfile, which knows Go's templates and no jinja."""

from __future__ import annotations

from collections.abc import Sequence

from trivium.errors import DataError
from trivium.text.chat import ChatTokenizer, Message

_SYSTEM, _USER, _REPLY, _AGAIN = "\ue010sys\ue011", "\ue010usr\ue011", "\ue010rep\ue011", "\ue010agn\ue011"


def go_template(chat: ChatTokenizer) -> str | None:
    """The template as Go's, for conversations without tools; None for one that does not write each turn by itself."""
    system: Message = {"role": "system", "content": _SYSTEM}
    first, reply = {"role": "user", "content": _USER}, {"role": "assistant", "content": _REPLY}
    turns = [first, reply, {"role": "user", "content": _AGAIN}]
    try:
        alone, told = _text(chat, [first], True), _text(chat, [first], False)
        answered, longer = _text(chat, [first, reply], False), _text(chat, turns, True)
        framed = _text(chat, [system, *turns], True)
    except DataError:  # no template, or none for a system message
        return None
    user_end = told.partition(_USER)[2]
    reply_begin = alone.partition(_USER)[2].removeprefix(user_end)
    reply_end = answered.partition(_REPLY)[2]
    user_begin = longer.partition(_REPLY)[2].partition(_AGAIN)[0].removeprefix(reply_end)
    default = alone.partition(_USER)[0].removesuffix(user_begin)
    system_begin = framed.partition(_SYSTEM)[0]
    system_end = framed.partition(_SYSTEM)[2].partition(_USER)[0].removesuffix(user_begin)
    talk = f"{user_begin}{_USER}{user_end}{reply_begin}{_REPLY}{reply_end}{user_begin}{_AGAIN}{user_end}{reply_begin}"
    if longer != default + talk or framed != f"{system_begin}{_SYSTEM}{system_end}{talk}":
        return None
    if chat.begin and chat.special is not None and chat.special.bos is not None:  # Ollama writes it by itself
        default = default.removeprefix(chat.special.bos)
        system_begin = system_begin.removeprefix(chat.special.bos)
    if '"""' in framed or "{{" in framed:
        return None
    return (
        f"{{{{ if .System }}}}{system_begin}{{{{ .System }}}}{system_end}{{{{ else }}}}{default}{{{{ end }}}}"
        "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        f'{{{{ if eq .Role "user" }}}}{user_begin}{{{{ .Content }}}}{user_end}{{{{ if $last }}}}{reply_begin}{{{{ end }}}}'
        f'{{{{ else if eq .Role "assistant" }}}}{reply_begin}{{{{ .Content }}}}{{{{ if not $last }}}}{reply_end}{{{{ end }}}}'
        "{{ end }}{{ end }}"
    )


def _text(chat: ChatTokenizer, turns: Sequence[Message], reply: bool) -> str:
    """A conversation as the template writes it, control tokens and all."""
    ids = chat.encode(turns, reply=reply).ids
    text: str = chat.tokenizer.decode(ids, skip_special_tokens=False)
    return text
