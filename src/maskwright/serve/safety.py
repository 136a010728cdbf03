"""Who may talk to the server: the browser that was given the launch token, from the server's own page.

Other pages in the same browser can send requests to this machine too, so every request must name one of our hosts, and every change
must come from our own origin: under DNS rebinding the origin equals the host that was asked for, so that neither check is enough
alone. The token becomes a cookie that scripts cannot read and leaves the address at once.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Container, Sequence
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskwright.errors import MaskwrightError

LOOPBACK = ("127.0.0.1", "localhost", "::1")

EVERYWHERE = ("0.0.0.0", "::")
"""Addresses to listen on that mean all of the machine's."""

MAX_UPLOAD = 256 * 1024 * 1024
"""Bytes of an image that is sent."""

MAX_BODY = 32 * 1024 * 1024
"""Bytes of any other request's body."""

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


_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?")


def new_token() -> str:
    return secrets.token_urlsafe(24)


class Hosts:
    """The values of ``Host`` that are answered: under any other name a page of another site could have this address (DNS rebinding).

    Args:
        host: what is listened on.
        port: of the server.
        names: further names that it is reached by, such as ``host.docker.internal``, or ``labels.example:443`` behind a proxy.

    Raises:
        MaskwrightError: a name that cannot be one.
    """

    def __init__(self, host: str, port: int, names: Sequence[str] = ()) -> None:
        known = {"127.0.0.1", "localhost", "[::1]"}
        # An address in digits is nobody else's name; so one that is open to a network is answered under any of them.
        self.any_address, self.port = host in EVERYWHERE, port
        if self.any_address:
            known |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
        else:
            known.add(f"[{host}]" if ":" in host else host.lower())
        for name in names:
            if not _NAME.fullmatch(name.lower()):
                raise MaskwrightError(f"--known-as {name}: must be a name such as labels.example, or one with a port")
        given = {name.lower() for name in names}
        self._accepted = {each for name in known for each in self._with_port(name)}
        self._accepted |= {each for name in given for each in (self._with_port(name) if ":" not in name else [name])}
        self._accepted |= {name.rpartition(":")[0] for name in given if name.endswith((":80", ":443"))}

    def _with_port(self, name: str) -> list[str]:
        return [f"{name}:{self.port}", name] if self.port == 80 else [f"{name}:{self.port}"]

    def __contains__(self, host: str) -> bool:
        if host.lower() in self._accepted:
            return True
        name, _, port = host.rpartition(":")
        return self.any_address and port == str(self.port) and _is_address(name)


def _is_address(name: str) -> bool:
    """Whether it is an IP address as it stands in an address: digits and dots, or in brackets."""
    is_six = name.startswith("[") and name.endswith("]")
    try:
        return ipaddress.ip_address(name[1:-1] if is_six else name).version == (6 if is_six else 4)
    except ValueError:
        return False


class Guard:
    """ASGI middleware that answers what is not allowed, and bounds what is.

    Args:
        app: what is guarded.
        token: the launch token.
        port: of the server, for the cookie's name: two servers on one machine do not log each other out.
        hosts: values of ``Host`` that are answered.
        uploads: paths to which images may be sent as they are; all other bodies are JSON.
    """

    def __init__(
        self, app: ASGIApp, token: str, port: int, hosts: Container[str], uploads: Container[str] = ()
    ) -> None:
        self.app, self.token, self.hosts, self.uploads = app, token, hosts, uploads
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
        await self.app(scope, _Bounded(receive, self._limit(scope)), _Secured(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return _error(421, "this server does not go by that name; open the address that it printed")
        origins = headers.getlist("origin")
        is_change = scope["method"] not in ("GET", "HEAD")
        if any(origin.lower().partition("://")[2] != hosts[0].lower() for origin in origins):
            return _error(403, "requests from other pages are not answered")
        has_token, has_cookie = self._is_token(_token_of(headers.get("authorization", ""))), self._has_cookie(headers)
        if is_change and has_cookie and not origins and not has_token:
            return _error(403, "a change must name the page that it comes from (Origin), or carry the token")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _error(403, "requests from other pages are not answered")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        # None of these can be sent by a form, or by a page of another site without asking first.
        is_picture = scope["path"] in self.uploads and (kind.startswith("image/") or kind == "application/octet-stream")
        if is_change and kind != "application/json" and not is_picture:
            return _error(415, "bodies must be application/json")
        length, limit = headers.get("content-length", "0"), self._limit(scope)
        if not length.isascii() or not length.isdecimal() or int(length) > limit:
            return _error(413, _too_long(limit))
        if scope["path"] == "/health" or has_token or has_cookie or self._asked_token(scope):
            return None
        return _error(
            401,
            "the token is missing: open the address that the command printed, or send it along (Bearer, or Basic password)",
        )

    def _limit(self, scope: Scope) -> int:
        return MAX_UPLOAD if scope["path"] in self.uploads else MAX_BODY

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
    """Reads a body, but no more than ``limit`` bytes of it."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.receive, self.limit, self.left = receive, limit, limit

    async def __call__(self) -> Message:
        message = await self.receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise TooLarge(_too_long(self.limit))
        return message


def _too_long(limit: int) -> str:
    return f"a request may have {limit // 2**20} MiB here"


def _token_of(authorization: str) -> str:
    """What an ``Authorization`` header gives for the token: that of a bearer, or the password of any user."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() in ("bearer", "token"):
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _secure(answer: Response) -> None:
    answer.headers.update(_HEADERS)


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status, {"cache-control": "no-store", "connection": "close"})
