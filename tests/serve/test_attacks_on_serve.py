"""Attacks on a real `maskwright serve` process: uploads, Label Studio's addresses, many at once."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import socket
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx
import numpy as np
import pytest
from PIL import Image

from maskwright.serve.safety import MAX_UPLOAD
from tests.serve.conftest import draw
from tests.serve.live import Live
from tests.serve.test_attacks import _memory, raw, request, status, stream_two_gigabytes

PNG = {"content-type": "image/png"}
CONFIG = '<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i"><Label value="a"/></BrushLabels></View>'


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that all attacks of this file share: it must outlive each of them, and leave no file behind."""
    root, before = tmp_path_factory.mktemp("attacked"), os.environ.get("TMPDIR")
    draw(root / "photos" / "0.png", 0)
    draw(root / "secret.png", 1)
    (root / "tmp").mkdir()
    os.environ["TMPDIR"] = str(root / "tmp")
    try:
        server = Live(None, root / "said.txt", ["--images", str(root / "photos")])
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
    with server:
        yield server
        assert server.process.poll() is None
        assert "Traceback" not in server.said()
        assert not list((root / "tmp").glob("maskwright-images-*/*.part"))
    assert not list((root / "tmp").iterdir())


@pytest.fixture
def client(live: Live) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client
        begun = time.monotonic()
        assert client.get("/api/server").status_code == 200
        assert time.monotonic() - begun < 5


@pytest.fixture
def image(client: httpx.Client, live: Live) -> str:
    content = (live.output.parent / "photos" / "0.png").read_bytes()
    return client.post("/api/images", content=content, headers=PNG).json()["id"]


def test_without_the_token_nothing_is_done(live: Live) -> None:
    with httpx.Client(base_url=live.address) as stranger:
        assert stranger.get("/health").status_code == 200
        for path in ("/", "/api/server", "/api/docs", "/api/openapi.json", "/versions", "/static/docs.js"):
            assert stranger.get(path).status_code == 401, path
        for path in ("/api/images", "/setup", "/predict", "/webhook"):
            for headers in (
                {},
                {"origin": live.address},
                {"authorization": "Basic eDp5"},
                {"authorization": "Bearer x"},
            ):
                answer = stranger.post(path, json={}, headers=headers)
                assert answer.status_code in (401, 403), (path, headers)
        assert stranger.post("/api/images", content=b"x", headers=PNG).status_code in (401, 403)


def test_foreign_hosts_and_origins(live: Live, client: httpx.Client) -> None:
    port = live.port
    for host in (f"127.0.0.1:{port}", f"[::1]:{port}", f"localhost:{port}"):
        assert request(live, "/api/server", host=host) == 200, host
    for host in (f"evil.example:{port}", "[::1]", f"[::1]:{port + 1}", f"127.0.0.1:{port + 1}", f"10.0.0.1:{port}"):
        assert request(live, "/api/server", host=host) in (400, 421), host
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}", f"http://[::1]:{port}"):
        for path in ("/api/images", "/predict", "/webhook"):
            headers = PNG | {"origin": origin, "authorization": f"Bearer {live.token}"}
            assert client.post(path, content=b"{}", headers=headers).status_code == 403, origin


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc%2fpasswd", "../secret.png", "%00", "%2fetc%2fpasswd", "a" * 5000, "0.part"]
)
def test_an_id_leads_nowhere(live: Live, client: httpx.Client, name: str) -> None:
    for target in (f"/api/images/{name}", f"/static/{name}", f"/{name}"):
        assert request(live, target) in (404, 405), target


def test_two_gigabytes_announced(live: Live, client: httpx.Client) -> None:
    for path in ("/api/images", "/predict"):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nAuthorization: Bearer {live.token}\r\n"
            f"Content-Type: {'image/png' if path == '/api/images' else 'application/json'}\r\n"
        )
        assert status(raw(live, f"{head}Content-Length: {2 * 2**30}\r\n\r\nx".encode())) == 413


def test_two_gigabytes_streamed(live: Live, client: httpx.Client) -> None:
    """It is cut off near the bound; memory holds none of it, as it goes to the disk, and the disk keeps none of it."""
    live.wait_for_sam()
    memory = _memory(live.process.pid)
    head = (
        f"POST /api/images HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nAuthorization: Bearer {live.token}\r\n"
        "Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    sent, answer = stream_two_gigabytes(live, head, b"\0")
    assert sent < MAX_UPLOAD + 2**27, sent
    assert not answer or status(answer) == 413
    assert _memory(live.process.pid) < memory + 2**27
    folder = next((live.output.parent / "tmp").glob("maskwright-images-*"))
    end = time.monotonic() + 10
    while any(folder.glob("*.part")) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(folder.glob("*.part"))


def test_an_upload_that_breaks_off_leaves_nothing(live: Live, client: httpx.Client) -> None:
    head = (
        f"POST /api/images HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nAuthorization: Bearer {live.token}\r\n"
        "Content-Type: image/png\r\nContent-Length: 1000000\r\n\r\n"
    )
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", live.port), 10) as connection:
            connection.sendall(head.encode() + b"\x89PNG\r\n\x1a\n" + b"x" * 1000)
    folder = next((live.output.parent / "tmp").glob("maskwright-images-*"))
    end = time.monotonic() + 10
    while any(folder.glob("*.part")) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(folder.glob("*.part"))


def _crafted_png(width: int, height: int, rows: int) -> bytes:
    """A PNG that says it has so many pixels, and holds ``rows`` of them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    pixels = zlib.compress(b"\0" * (width + 1) * rows, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        _crafted_png(100_000, 100_000, 1),
        _crafted_png(2**31 - 1, 2**31 - 1, 0),
        _crafted_png(10_000, 10_000, 3),
        b"\x89PNG\r\n\x1a\n" + random.Random(0).randbytes(100_000),
        b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"%!PS-Adobe\n(/etc/passwd) (r) file\n",
        b"GIF89a" + b"\xff" * 50_000,
    ],
)
def test_crafted_images(live: Live, client: httpx.Client, content: bytes) -> None:
    memory, begun = _memory(live.process.pid), time.monotonic()
    answer = client.post("/api/images", content=content, headers=PNG)
    assert answer.status_code == 422, answer.text
    assert str(live.output.parent) not in answer.text
    assert time.monotonic() - begun < 10
    assert _memory(live.process.pid) < memory + 2**28


def test_bodies_that_are_none(client: httpx.Client, image: str) -> None:
    bodies = (
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 500_000,
        b"{" + b'"a":{' * 200_000,
        b'{"tasks": ' + b"9" * 5000 + b"}",
    )
    for path in ("/predict", "/setup", "/webhook", f"/api/images/{image}/predict", f"/api/images/{image}/correct"):
        for body in bodies:
            answer = client.post(path, content=body, headers={"content-type": "application/json"})
            assert 400 <= answer.status_code < 500 or answer.status_code == 503, (path, body[:20])
            assert answer.json()["error"]


def test_crafted_interfaces_take_neither_time_nor_files(live: Live, client: httpx.Client) -> None:
    names = [f"l{number}" for number in range(10)]
    laughs = "".join(f'<!ENTITY {b} "{10 * ("&" + a + ";")}">' for a, b in pairwise(names))
    wide = "<View>" + "<Label/>" * 1_000_000 + "</View>"
    for config in (
        f"<!DOCTYPE a [{laughs}]><View>&l9;</View>",
        wide,
        "<View>" * 100_000,
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
    ):
        begun = time.monotonic()
        for path, body in (("/setup", {"schema": config}), ("/predict", {"tasks": [], "label_config": config})):
            answer = client.post(path, json=body)
            assert answer.status_code == 422, answer.text[:200]
            assert "root:" not in answer.text
        assert time.monotonic() - begun < 20


def test_a_task_reads_nothing_outside_of_the_folder(live: Live, client: httpx.Client) -> None:
    live.wait_for_sam()
    point = {"type": "keypointlabels", "is_positive": True, "value": {"x": 50, "y": 50, "keypointlabels": ["a"]}}
    root = live.output.parent
    for link in (
        "0.png",
        "../secret.png",
        f"{root}/secret.png",
        f"file://{root}/secret.png",
        "/data/local-files/?d=..%2fsecret.png",
    ):
        body = {"tasks": [{"data": {"i": link}}], "label_config": CONFIG, "params": {"context": {"result": [point]}}}
        answer = client.post("/predict", json=body)
        assert answer.status_code == (200 if link == "0.png" else 422), link


def test_two_hundred_uploads_and_clicks_at_once(live: Live, client: httpx.Client) -> None:
    """Every image is kept and every question without a number is answered, whatever else is asked."""
    live.wait_for_sam()

    def picture(number: int) -> bytes:
        pixels = np.random.default_rng(number % 20).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    def ask(number: int) -> tuple[str, bool]:
        image = client.post("/api/images", content=picture(number), headers=PNG).json()["id"]
        answer = client.post(f"/api/images/{image}/predict", json={"points": [[number % 60, 20, 1]]})
        assert answer.status_code == 200, answer.text
        return image, "superseded" in answer.json()

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(200)))
    assert len({image for image, _ in answers}) == 20
    assert not any(superseded for _, superseded in answers)


def test_slow_uploads_hold_nobody_up(live: Live, client: httpx.Client, image: str) -> None:
    head = (
        f"POST /api/images HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nAuthorization: Bearer {live.token}\r\n"
        "Content-Type: image/png\r\nContent-Length: 100000\r\n\r\n\x89PNG"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", live.port), 10))
            connection.sendall(head.encode("latin-1"))
        for _ in range(20):
            begun = time.monotonic()
            assert client.get(f"/api/images/{image}").status_code == 200
            assert time.monotonic() - begun < 2


def test_the_answers_are_under_the_policy(client: httpx.Client) -> None:
    for path in ("/", "/api/docs", "/api/openapi.json", "/static/docs.js", "/health"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "'unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert json.loads(client.get("/health").text)["status"] == "UP"
