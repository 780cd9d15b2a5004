"""Our own engine behind the APIs: the one of torch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any

from trivium.serve import anthropic, openai, responses
from trivium.serve import asked as asking
from trivium.serve.engines import check_model
from trivium.serve.service import Service
from trivium.serve.wire import TokenizeBody, Wire

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


class TorchEngine(Service):
    """An `engines.Engine`: the requests of each API in the words of one service."""

    async def whole(self, path: str, body: Wire, raw: Mapping[str, Any]) -> dict[str, Any]:
        return await WHOLE[path](self, body)

    def stream(self, path: str, body: Wire, raw: Mapping[str, Any]) -> AsyncGenerator[str]:
        return STREAMED[path](self, body)
