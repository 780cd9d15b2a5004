"""A span of OpenTelemetry for each request, where it is installed; who wants them starts us with `opentelemetry-instrument`.
Names are those of its conventions for generative models; no word of what was asked or said is in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trivium.serve.engines import Call

try:
    from opentelemetry import propagate, trace
except ModuleNotFoundError:
    propagate = trace = None  # type: ignore[assignment]

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
}


def started(path: str, headers: Mapping[str, str]) -> Any:
    """The span of a request that generates, under its caller's (`traceparent`); None for others, and without OpenTelemetry."""
    if trace is None or path not in OPERATIONS:
        return None
    tracer = trace.get_tracer("trivium.serve")
    return tracer.start_span(
        OPERATIONS[path], context=propagate.extract(dict(headers)), kind=trace.SpanKind.SERVER
    )


def ended(span: Any, call: Call) -> None:
    """Says what the request has cost, and ends its span."""
    if span is None:
        return
    operation = OPERATIONS[call.path]
    span.update_name(f"{operation} {call.model}".strip())
    span.set_attributes(
        {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "trivium",
            "gen_ai.request.model": call.model,
            "gen_ai.usage.input_tokens": call.prompt,
            "gen_ai.usage.output_tokens": call.reply,
            "http.response.status_code": call.status,
            "url.path": call.path,
        }
    )
    if call.status >= 500:
        span.set_attribute("error.type", str(call.status))
        span.set_status(trace.StatusCode.ERROR)
    span.end()
