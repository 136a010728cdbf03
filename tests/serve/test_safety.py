"""Who is answered: only the page itself, with the token, under one of the server's names."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskwright.serve.safety import MAX_BODY
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
