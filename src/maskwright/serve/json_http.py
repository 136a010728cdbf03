"""Reading what a request says and writing the answer, both JSON, and errors as ``{"error": sentence}``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from maskwright.errors import MaskwrightError
from maskwright.serve.safety import TooLarge
from maskwright.serve.wire import WireError

Handler = Callable[[Request], Awaitable[Response]]


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(content, status, {"cache-control": "no-store", **(headers or {})})


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries. Raises WireError where it carries none."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise WireError("the body is not JSON", 400) from None
    if not isinstance(body, dict):
        raise WireError("the body must be a JSON object", 400)
    return body


def whole_of(request: Request, name: str, default: int) -> int:
    """A whole number of the address' query. Raises WireError for anything else."""
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise WireError(f"{name} must be a whole number", 400)
    return int(text)


# ------------------------------------------------------------------------------------------------------- errors


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, WireError)
    return answer({"error": str(error)}, error.status)


async def _failed(request: Request, error: Exception) -> Response:
    return answer({"error": str(error)}, 422)


async def _too_large(request: Request, error: Exception) -> Response:
    # The rest of the body is not waited for.
    return answer({"error": str(error)}, 413, {"connection": "close"})


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


async def _unknown(request: Request, error: Exception) -> Response:
    return answer({"error": "there is nothing at this address"}, getattr(error, "status_code", 404))


ERRORS: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    WireError: _refused,
    MaskwrightError: _failed,
    TooLarge: _too_large,
    ClientDisconnect: _gone,
    404: _unknown,
    405: _unknown,
}
"""How each kind of error is answered."""
