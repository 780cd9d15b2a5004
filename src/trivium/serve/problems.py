"""What a client gets instead of a reply: an error of OpenAI's shape (Anthropic's is made of it), with the status that fits."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """`status` of HTTP, what happened, the field that it is about, and a code for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after  # seconds

    @property
    def kind(self) -> str:
        named = {
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            429: "rate_limit_error",
        }
        if self.status in named:
            return named[self.status]
        return "invalid_request_error" if self.status < 500 else "server_error"

    def openai(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        kinds = {413: "request_too_large", 529: "overloaded_error", 503: "overloaded_error"}
        kind = kinds.get(self.status, "api_error" if self.status >= 500 else self.kind)
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
