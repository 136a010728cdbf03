"""One address of the API: who answers it, and what it takes and gives. Routes and the OpenAPI description come from the same table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.routing import Route

from maskwright.serve.json_http import Handler
from maskwright.serve.schemas import COMPONENTS, ERROR, Schema
from maskwright.version import __version__

_PARAMETER = re.compile(r"{(\w+)(?::(\w+))?}")

BINARY: Schema = {}
"""The body of an image, which OpenAPI describes by its media type alone."""


@dataclass(frozen=True)
class Endpoint:
    """An address and what is done there.

    Attributes:
        method: ``GET`` or ``POST``.
        path: as Starlette has it, such as ``/api/images/{image}``.
        handler: answers.
        summary: one line; ``text`` says more.
        group: of the description's contents.
        answers: by media type what a success gives.
        takes: by media type what the body must be; empty: there is none.
        query: parameters of the address, by name, none of them required.
        errors: what else may be answered, by status; those that every address gives (401, 403, 413, 415, 421) need no mention.
        status: of a success.
        is_open: needs no token.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    group: str
    answers: Mapping[str, Schema]
    takes: Mapping[str, Schema] = field(default_factory=dict)
    query: Mapping[str, Schema] = field(default_factory=dict)
    errors: Mapping[int, str | tuple[str, Schema]] = field(default_factory=dict)
    text: str = ""
    status: int = 200
    is_open: bool = False

    def route(self) -> Route:
        return Route(self.path, self.handler, methods=[self.method])

    @property
    def template(self) -> str:
        """The path as OpenAPI has it."""
        return _PARAMETER.sub(r"{\1}", self.path)

    def describe(self) -> dict[str, Any]:
        """The operation as OpenAPI has it."""
        parameters: list[dict[str, Any]] = []
        for name, kind in _PARAMETER.findall(self.path):
            schema = {"type": "integer", "minimum": 0} if kind == "int" else {"type": "string"}
            parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
        parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in self.query.items()]
        responses: dict[str, Any] = {
            str(self.status): {"description": "success", "content": _content(self.answers)},
            "default": {"description": "an error, told in a sentence", "content": _content(_JSON_ERROR)},
        }
        for status, told in self.errors.items():
            text, schema = told if isinstance(told, tuple) else (told, ERROR)
            content = _content({"application/json": schema})
            responses[str(status)] = {"description": text, "content": content}
        described: dict[str, Any] = {
            "operationId": self.handler.__name__,
            "summary": self.summary,
            "tags": [self.group],
            "parameters": parameters,
            "responses": responses,
        }
        if self.text:
            described["description"] = self.text
        if self.takes:
            described["requestBody"] = {"required": True, "content": _content(self.takes)}
        if self.is_open:
            described["security"] = []
        return described


_JSON_ERROR = {"application/json": ERROR}


def _content(kinds: Mapping[str, Schema]) -> dict[str, Any]:
    return {kind: {"schema": schema} if schema else {} for kind, schema in kinds.items()}


def openapi(endpoints: Sequence[Endpoint], title: str) -> dict[str, Any]:
    """The description of an API, OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for each in endpoints:
        paths.setdefault(each.template, {})[each.method.lower()] = each.describe()
    groups = dict.fromkeys(each.group for each in endpoints)
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "the token that the command printed"},
        "basic": {"type": "http", "scheme": "basic", "description": "any user name; the token is the password"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__, "description": _ABOUT},
        "tags": [{"name": group} for group in groups],
        "security": [{"bearer": []}, {"basic": []}],
        "paths": paths,
        "components": {"schemas": dict(COMPONENTS), "securitySchemes": schemes},
    }


_ABOUT = """\
Places are pixels of the image as it is displayed, x to the right and y down; pixel centres lie at +0.5. A mask is
{"box": [x, y, width, height], "counts": [zeros, ones, zeros, ...]}: run lengths, row by row, within the box; the first run is one of
zeros and may be empty. Errors are {"error": sentence}. Every address may answer 401 (no token), 403 (a request from another page),
413 (too large), 415 (no JSON) and 421 (a foreign Host). Send the token as "Authorization: Bearer TOKEN"."""
