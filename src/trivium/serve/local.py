"""Our own engine behind the APIs: the one of torch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from trivium.errors import ArtifactError, DataError
from trivium.serve import anthropic, openai, responses
from trivium.serve import asked as asking
from trivium.serve.engines import check_model
from trivium.serve.service import Service
from trivium.serve.wire import TokenizeBody, Wire
from trivium.text.chat import ChatTokenizer

Whole = Callable[[Service, Any], Coroutine[Any, Any, dict[str, Any]]]
Stream = Callable[[Service, Any], AsyncGenerator[str]]


async def tokenize(service: Service, body: TokenizeBody) -> dict[str, Any]:
    """Ids of a text or of a conversation."""
    if body.model is not None:
        check_model(service, body.model)
    if body.messages is not None:
        ids = asking.chat_prompt(service, body.messages, [])
    else:
        begin = service.chat.begin if body.add_special_tokens else ()
        ids = [*begin, *service.chat.guard.plain(body.prompt or "")]
    return {"count": len(ids), "max_model_len": service.room, "tokens": ids}


WHOLE: dict[str, Whole] = {
    "/v1/chat/completions": openai.chat,
    "/v1/completions": openai.completion,
    "/v1/responses": responses.whole,
    "/v1/messages": anthropic.whole,
    "/v1/messages/count_tokens": anthropic.count,
    "/tokenize": tokenize,
}
STREAMED: dict[str, Stream] = {
    "/v1/chat/completions": openai.chat_stream,
    "/v1/completions": openai.completion_stream,
    "/v1/responses": responses.stream,
    "/v1/messages": anthropic.stream,
}


def check_template(chat: ChatTokenizer, where: Path) -> None:
    """ArtifactError for a checkpoint whose chat template cannot even write one message: it would stall every request."""
    if chat.template is None:
        return
    try:
        chat.prompt([{"role": "user", "content": "a"}])
    except (DataError, ValueError) as error:
        what = error.what if isinstance(error, DataError) else str(error)
        raise ArtifactError(
            f"its chat template does not write a message: {what}",
            where=str(where),
            fix="mend the template, or remove it: /v1/completions needs none",
        ) from None


class TorchEngine(Service):
    """An `engines.Engine`: the requests of each API in the words of one service."""

    async def whole(self, path: str, body: Wire, raw: Mapping[str, Any]) -> dict[str, Any]:
        return await WHOLE[path](self, body)

    def stream(self, path: str, body: Wire, raw: Mapping[str, Any]) -> AsyncGenerator[str]:
        return STREAMED[path](self, body)
