"""The server's own description in OpenAPI 3.1, made of the models that requests are read with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from trivium.serve.wire import Wire

_REFERENCE = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"}, "type": {"type": "string"},
                "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type"],
        }
    },
    "required": ["error"],
}  # fmt: skip


def description(bodies: Mapping[str, type[Wire]], reads: Mapping[str, str]) -> dict[str, Any]:
    """`bodies`: what may be posted and where; `reads`: what may be read, and its media type."""
    names, definitions = models_json_schema(
        [(kind, "validation") for kind in dict.fromkeys(bodies.values())], ref_template=_REFERENCE
    )
    paths: dict[str, Any] = {
        path: {
            "get": {"responses": {"200": _answer(media), "default": {"$ref": "#/components/responses/Error"}}}
        }
        for path, media in reads.items()
    }
    for path, kind in bodies.items():
        answers = ["application/json", *(["text/event-stream"] if "stream" in kind.model_fields else [])]
        paths[path] = {
            "post": {
                "requestBody": {
                    "required": True, "content": {"application/json": {"schema": names[kind, "validation"]}},
                },
                "responses": {"200": _answer(*answers), "default": {"$ref": "#/components/responses/Error"}},
            }
        }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "trivium serve", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Error": _ERROR},
            "responses": {
                "Error": {
                    "description": "why there is no answer",
                    "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model="Error")}}},
                }
            },
        },
    }


def _answer(*media: str) -> dict[str, Any]:
    return {"description": "the answer", "content": {one: {} for one in media}}
