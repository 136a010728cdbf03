"""Who is answered: only the page itself, with the token, under one of the server's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskwright.errors import MaskwrightError
from maskwright.serve.safety import MAX_BODY, Hosts
from maskwright.serve.server import Address
from tests.serve.conftest import PORT, TOKEN, Open


def test_the_token_becomes_a_cookie_and_leaves_the_address(opened: Open, folder: Path) -> None:
    client = opened(folder)
    answer = client.get(f"/?token={TOKEN}", follow_redirects=False)
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert f"maskwright-{PORT}=" in cookie
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    client.cookies.clear()
    for path in ("/", "/?token=wrong", "/api/project", "/static/main.js", "/api/images/0/annotations"):
        assert client.get(path, follow_redirects=False).status_code == 401, path


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": f"evil.example:{PORT}", "origin": f"http://evil.example:{PORT}"}, 421),
        ({"host": "127.0.0.1:1"}, 421),
        ({"host": "[::1]:1"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-length": str(2 * 2**30)}, 413),
        ({"host": f"[::1]:{PORT}", "origin": f"http://[::1]:{PORT}"}, 200),
        ({"host": f"localhost:{PORT}", "origin": f"http://localhost:{PORT}"}, 200),
    ],
)
def test_foreign_requests_change_nothing(opened: Open, folder: Path, headers: dict[str, str], status: int) -> None:
    client = opened(folder)
    cookie = {"cookie": f"maskwright-{PORT}={TOKEN}", "content-type": "application/json"}
    answer = client.post("/api/categories", content=b'{"name": "new"}', headers=cookie | headers)
    assert answer.status_code == status
    assert ("new" in client.project.categories) == (status == 200)


def test_a_body_without_an_end_is_cut_off(opened: Open, folder: Path) -> None:
    pieces = (b" " * 2**20 for _ in range(MAX_BODY // 2**20 + 2))
    answer = opened(folder).post("/api/categories", content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize("name", ["../manifest.json", "..%2f..%2fetc%2fpasswd", "%00", "0%2f..%2f1", "/etc/passwd"])
def test_names_are_no_paths(opened: Open, folder: Path, name: str) -> None:
    client = opened(folder)
    for address in (f"/api/images/{name}/thumbnail", f"/static/{name}", f"/api/jobs/{name}/log"):
        assert client.get(address).status_code in (404, 405), address


def test_every_answer_is_guarded(opened: Open, folder: Path) -> None:
    client = opened(folder)
    for path in ("/", "/api/project", "/api/nowhere", "/api/images/0/thumbnail"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def accepted(hosts: Hosts, *names: str) -> list[bool]:
    return [name in hosts for name in names]


def test_an_open_server_answers_its_own_names_and_addresses_in_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Desk")
    hosts = Hosts("0.0.0.0", 8000, ["labels.example", "proxy.example:443"])
    right = (
        "127.0.0.1:8000",
        "10.1.2.3:8000",
        "[::1]:8000",
        "[fe80::1]:8000",
        "localhost:8000",
        "desk:8000",
        "desk.local:8000",
    )
    assert all(
        accepted(hosts, *right, "labels.example:8000", "LABELS.example:8000", "proxy.example:443", "proxy.example")
    )
    # Under a foreign name the page of another site could have this address.
    wrong = ("evil.example:8000", "10.1.2.3", "10.1.2.3:1", "desk", "labels.example", "proxy.example:8000", "", ":8000")
    tricks = (
        "10.1.2.3.evil.example:8000",
        "0x7f000001:8000",
        "1:8000",
        "10.1.2.3@evil:8000",
        "::1:8000",
        "[10.1.2.3]:8000",
    )
    assert not any(accepted(hosts, *wrong, *tricks))


def test_a_server_of_this_machine_answers_its_loopback_and_given_names() -> None:
    hosts = Hosts("127.0.0.1", 80, ["host.docker.internal"])
    assert all(accepted(hosts, "127.0.0.1", "127.0.0.1:80", "localhost", "[::1]", "host.docker.internal:80"))
    assert not any(accepted(hosts, "10.1.2.3", "10.1.2.3:80", "evil.example:80", "localhost:8000"))
    one = Hosts("192.168.1.5", 8000)
    assert accepted(one, "192.168.1.5:8000", "192.168.1.6:8000", "127.0.0.1:8000") == [True, False, True]
    assert "[fe80::1]:8000" in Hosts("fe80::1", 8000)
    for wrong in ("http://a", "a b", "", "a/b", "*", "a:b"):
        with pytest.raises(MaskwrightError, match="--known-as"):
            Hosts("127.0.0.1", 80, [wrong])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"host": "0.0.0.0"}, "give a --token"),
        ({"host": "192.168.1.5"}, "give a --token"),
        ({"token": "short"}, "8 characters"),
        ({"token": "with spaces"}, "without spaces"),
        ({"token": "ümläuteee"}, "plain text"),
        ({"port": 99_999}, "0..65535"),
    ],
)
def test_addresses_that_make_no_sense(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(MaskwrightError, match=told):
        Address(**settings)


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic x", "Basic ====", "Basic /w==", "Basic Og==", "Digest x", "Bearer", f"Basic {TOKEN}", TOKEN],
)
def test_headers_that_carry_no_token(opened: Open, folder: Path, header: str) -> None:
    client = opened(folder)
    client.cookies.clear()
    assert client.get("/api/project", headers={"authorization": header}).status_code == 401
