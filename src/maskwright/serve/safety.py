"""Who may talk to the server: the browser that was given the launch token, from the server's own page.

Other pages in the same browser can send requests to this machine too, so every request must name one of our hosts, and every change
must come from our own origin: under DNS rebinding the origin equals the host that was asked for, so that neither check is enough
alone. The token becomes a cookie that scripts cannot read and leaves the address at once.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 32 * 1024 * 1024
"""Bytes of a request's body."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "worker-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The content security policy of everything that is sent."""

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


def new_token() -> str:
    return secrets.token_urlsafe(24)


def hosts_of(host: str, port: int) -> frozenset[str]:
    """What a browser may write into ``Host``: the names of this machine's loopback, and the address that is listened on."""
    names = {"127.0.0.1", "localhost", "[::1]"}
    if host not in ("0.0.0.0", "::", "127.0.0.1", "localhost", "::1"):
        names.add(f"[{host}]" if ":" in host else host.lower())
    return frozenset(f"{name}:{port}" for name in names) | (frozenset(names) if port == 80 else frozenset())


class Guard:
    """ASGI middleware that answers what is not allowed, and bounds what is.

    Args:
        app: what is guarded.
        token: the launch token.
        port: of the server, for the cookie's name: two servers on one machine do not log each other out.
        hosts: values of ``Host`` that are answered; empty: any, for a server that is open to a network.
    """

    def __init__(self, app: ASGIApp, token: str, port: int, hosts: Collection[str]) -> None:
        self.app, self.token, self.hosts = app, token, frozenset(hosts)
        self.cookie = f"maskwright-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        answer = self._refusal(scope, headers) or self._login(scope)
        if answer is not None:
            _secure(answer)
            await answer(scope, receive, send)
            return
        await self.app(scope, _Bounded(receive), _Secured(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or (self.hosts and hosts[0].lower() not in self.hosts):
            return _error(421, "this server does not go by that name; open the address that it printed")
        origins = headers.getlist("origin")
        is_change = scope["method"] not in ("GET", "HEAD")
        if any(origin.lower().partition("://")[2] != hosts[0].lower() for origin in origins):
            return _error(403, "requests from other pages are not answered")
        is_bearer = self._is_token(headers.get("authorization", "").removeprefix("Bearer ").removeprefix("Token "))
        if is_change and not origins and not is_bearer:
            return _error(403, "a change must name the page that it comes from (Origin), or carry the token")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _error(403, "requests from other pages are not answered")
        if is_change and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _error(415, "bodies must be application/json")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdecimal() or int(length) > MAX_BODY:
            return _error(413, f"a request may have {MAX_BODY // 2**20} MiB")
        if scope["path"] == "/health" or is_bearer or self._has_cookie(headers) or self._asked_token(scope):
            return None
        return _error(401, "open the address that `maskwright label` printed, with its token")

    def _login(self, scope: Scope) -> Response | None:
        """Where the address carries the token: the cookie, and the address without it."""
        if not self._asked_token(scope):
            return None
        rest = {
            key: values for key, values in parse_qs(scope["query_string"].decode("latin-1")).items() if key != "token"
        }
        answer = RedirectResponse("/" + (f"?{urlencode(rest, doseq=True)}" if rest else ""), 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
        answer.headers["cache-control"] = "no-store"
        return answer

    def _asked_token(self, scope: Scope) -> bool:
        if scope["path"] != "/" or scope["method"] != "GET":
            return False
        return self._is_token(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0])

    def _has_cookie(self, headers: Headers) -> bool:
        pairs = (part.strip().partition("=") for text in headers.getlist("cookie") for part in text.split(";"))
        return any(name == self.cookie and self._is_token(value) for name, _, value in pairs)

    def _is_token(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), self.token.encode())


class _Secured:
    """Sends answers with the headers that all of them have."""

    def __init__(self, send: Send) -> None:
        self.send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_HEADERS)
        await self.send(message)


class TooLarge(Exception):
    """A body that is longer than it said, or said nothing and does not end."""


class _Bounded:
    """Reads a body, but no more than ``MAX_BODY`` of it."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.left = receive, MAX_BODY

    async def __call__(self) -> Message:
        message = await self.receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise TooLarge
        return message


def _secure(answer: Response) -> None:
    answer.headers.update(_HEADERS)


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status, {"cache-control": "no-store", "connection": "close"})
