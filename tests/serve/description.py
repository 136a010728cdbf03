"""Holds real answers against the API's own description."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient


class Described:
    """A client whose every request and answer is compared with what ``/api/openapi.json`` says of it.

    Attributes:
        document: the description.
        seen: the operations that were answered, as (method, path, status).
    """

    def __init__(self, client: TestClient) -> None:
        self.client, self.seen = client, set[tuple[str, str, int]]()
        self.document: dict[str, Any] = client.get("/api/openapi.json").json()

    def get(self, path: str) -> httpx.Response:
        return self._checked("get", path, self.client.get(path))

    def post(self, path: str, body: Any = None, *, valid: bool = True) -> httpx.Response:
        """Send JSON. ``valid``: the body must be as the description has it."""
        body = {} if body is None else body
        operation = self._operation("post", path)[1]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert not valid or self.problems(schema, body) == [], self.problems(schema, body)
        return self._checked("post", path, self.client.post(path, json=body))

    def upload(self, path: str, content: bytes, kind: str) -> httpx.Response:
        return self._checked("post", path, self.client.post(path, content=content, headers={"content-type": kind}))

    def problems(self, schema: dict[str, Any], value: Any) -> list[str]:
        """What of a value is not as a schema says."""
        whole = {**schema, "components": self.document["components"]}
        return [error.message for error in Draft202012Validator(whole).iter_errors(value)]

    def operations(self) -> set[tuple[str, str]]:
        return {(method, path) for path, methods in self.document["paths"].items() for method in methods}

    def _operation(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        plain = path.partition("?")[0]
        # Fixed paths go before those with parameters.
        for template in sorted(self.document["paths"], key=lambda each: each.count("{")):
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, plain) and method in self.document["paths"][template]:
                return template, self.document["paths"][template][method]
        raise AssertionError(f"{method} {path} is not described")

    def _checked(self, method: str, path: str, answer: httpx.Response) -> httpx.Response:
        template, operation = self._operation(method, path)
        described = operation["responses"].get(str(answer.status_code))
        if described is None:
            assert answer.status_code >= 400, f"{method} {path}: {answer.status_code} is not described"
            described = operation["responses"]["default"]
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in described["content"], f"{method} {path}: {kind} is not described"
        if kind == "application/json":
            problems = self.problems(described["content"][kind].get("schema", {}), answer.json())
            assert problems == [], f"{method} {path}: {problems}\n{json.dumps(answer.json())[:2000]}"
        self.seen.add((method, template, answer.status_code))
        return answer
