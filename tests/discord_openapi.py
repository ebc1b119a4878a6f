"""Holds the REST bodies that a bot sends against Discord's own OpenAPI document.

Decides: which schema a request must meet. Refuses to know: the playground; a call is a method, a
route template and a body. Source: tests/data/discord-openapi-subset.json (MIT, licence beside it).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

DOCUMENT = Path(__file__).parent / "data" / "discord-openapi-subset.json"
LARGEST_EXACT = 2**53


@cache
def _document() -> dict[str, Any]:
    return json.loads(DOCUMENT.read_text(encoding="utf-8"))


@cache
def _validator(method: str, route: str) -> Draft202012Validator | None:
    """The validator of a route's JSON body; None where the document has none."""
    operation = _document()["paths"].get(route, {}).get(method.lower(), {})
    content = operation.get("requestBody", {}).get("content")
    if content is None:
        return None
    schema = content["application/json"]["schema"]
    return Draft202012Validator({**schema, "components": _document()["components"]})


def covers(method: str, route: str) -> bool:
    """Whether the document describes a body for this route."""
    return _validator(method, route) is not None


def problems(method: str, route: str, body: Any) -> list[str]:
    """What Discord's document says against this body, each with the path to it; [] is good."""
    if body is None or not covers(method, route):
        return []
    return list(_problems(method, route, json.dumps(_as_documented(body))))


@cache
def _problems(method: str, route: str, text: str) -> tuple[str, ...]:
    """As `problems`. Kept, for every bot that starts sends the same large list of commands."""
    validator = _validator(method, route)
    assert validator is not None
    return tuple(
        f"{method} {route}: {'.'.join(map(str, error.absolute_path)) or 'body'}: {error.message}"
        for error in map(_deepest, validator.iter_errors(json.loads(text)))
    )


def _deepest(error: Any) -> Any:
    """The most telling of the errors under an anyOf or oneOf."""
    while error.context:
        error = max(error.context, key=lambda inner: len(inner.absolute_path))
    return error


def _as_documented(body: Any) -> Any:
    """The body with ids as text: discord.py sends many as numbers, which the API takes."""
    body = _ids_as_text(body)
    for part in (body, body.get("data") if isinstance(body, dict) else None):
        files = part.get("attachments") if isinstance(part, dict) else None
        for file in files or ():
            file["id"] = str(file["id"])
    return body


def _ids_as_text(value: Any) -> Any:
    """A copy in which every number too large for a JSON number is text: only ids are."""
    if isinstance(value, dict):
        return {key: _ids_as_text(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_ids_as_text(part) for part in value]
    return str(value) if isinstance(value, int) and value >= LARGEST_EXACT else value
