"""Attacks on a real server process: whoever may not ask gets a refusal, and nobody brings the server or the dataset down."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.mask_files import read_mask
from maskwright.serve.safety import MAX_BODY
from tests.serve.conftest import draw
from tests.serve.live import PATIENCE, Live, change, objects


def _folder(root: Path, count: int = 3) -> Path:
    for number in range(count):
        draw(root / "photos" / f"{number}.png", number)
    return root / "photos"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that all attacks of this file share: it must outlive each of them."""
    root = tmp_path_factory.mktemp("attacked")
    with Live(_folder(root), root / "said.txt") as server:
        yield server
        assert server.process.poll() is None
        assert "Traceback" not in server.said()


@pytest.fixture
def client(live: Live) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client
        # Whatever was done to it: the server still answers, at once.
        begun = time.monotonic()
        assert client.get("/api/project").status_code == 200
        assert time.monotonic() - begun < 5


def raw(live: Live, text: bytes, *, wait: float = 10.0) -> bytes:
    """Send bytes as they are, and read until the server closes or has nothing more to say."""
    with socket.create_connection(("127.0.0.1", live.port), wait) as connection:
        connection.sendall(text)
        pieces = []
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while piece := connection.recv(65536):
                pieces.append(piece)
                if b"content-length" in piece.lower() and b"\r\n\r\n" in b"".join(pieces):
                    break
    return b"".join(pieces)


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer.split()[1])


def request(live: Live, target: str, *headers: str, host: str | None = None, method: str = "GET") -> int:
    """The status of a request with the cookie, written byte by byte: no client tidies its path or headers up."""
    cookie = f"Cookie: maskwright-{live.port}={live.token}"
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host or f'127.0.0.1:{live.port}'}", cookie, *headers, "", ""]
    return status(raw(live, "\r\n".join(lines).encode("latin-1")))


# ------------------------------------------------------------------------------------------------------- who may ask


@pytest.mark.parametrize("token", ["", "wrong", "Ж" * 8, "%00", "a" * 60_000, "a&token=b"])
def test_without_the_token_nothing_is_told(live: Live, token: str) -> None:
    with httpx.Client(base_url=live.address) as stranger:
        for path in ("/", "/api/project", "/api/images", "/static/main.js", "/api/images/0/tiles/0/0/0"):
            assert stranger.get(path).status_code == 401
        answer = stranger.get("/", params={"token": token})
        assert answer.status_code in (401, 400, 431)
        assert "set-cookie" not in answer.headers
        for headers in ({"cookie": f"maskwright-{live.port}=wrong"}, {"authorization": "Token wrong"}, {"cookie": "x"}):
            assert stranger.get("/api/project", headers=headers).status_code == 401
        # The cookie of another server of this machine is of no use here.
        assert stranger.get("/api/project", headers={"cookie": f"maskwright-1={live.token}"}).status_code == 401


def test_the_address_with_the_token_is_left_at_once(live: Live) -> None:
    answer = httpx.get(live.url, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    assert "no-store" in answer.headers["cache-control"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert {"httponly", "samesite=strict"} <= {each.strip().lower() for each in answer.headers["set-cookie"].split(";")}


def test_foreign_hosts_are_refused(live: Live, client: httpx.Client) -> None:
    port = live.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert request(live, "/api/project", host=host) == 200, host
    foreign = ("127.0.0.1", "localhost", "[::1]", f"[::1]:{port + 1}", f"127.0.0.1:{port + 1}", f"evil.example:{port}")
    tricks = (f"[::1].evil.example:{port}", f"127.0.0.1.evil.example:{port}", f"localhost:{port}@evil.example", "::1")
    for host in (
        *foreign,
        *tricks,
        f"127.0.0.1:{port}, evil.example",
        f"0x7f000001:{port}",
        f"[::ffff:127.0.0.1]:{port}",
    ):
        assert request(live, "/api/project", host=host) in (400, 421), host


def test_two_hosts_or_none_are_refused(live: Live, client: httpx.Client) -> None:
    cookie = f"Cookie: maskwright-{live.port}={live.token}"
    for lines in ([], [f"Host: 127.0.0.1:{live.port}", "Host: evil.example"]):
        answer = raw(live, "\r\n".join(["GET /api/project HTTP/1.1", *lines, cookie, "", ""]).encode())
        assert status(answer) in (400, 421)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1",
        "http://[::1]:1",
        "http://127.0.0.1:{port}.evil.example",
        "file://",
        "",
    ],
)
def test_changes_of_other_pages_are_refused(live: Live, client: httpx.Client, origin: str) -> None:
    origin = origin.replace("{port}", str(live.port))
    before = client.get("/api/project").json()["categories"]
    answer = client.post("/api/categories", json={"name": "foreign"}, headers={"origin": origin})
    assert answer.status_code == 403
    assert client.get("/api/project").json()["categories"] == before


def test_forms_and_simple_requests_are_refused(client: httpx.Client) -> None:
    kinds = (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "",
    )
    for kind in kinds:
        answer = client.post("/api/categories", content=b'{"name": "foreign"}', headers={"content-type": kind})
        assert answer.status_code == 415, kind
    for method in ("PUT", "DELETE", "PATCH"):
        assert client.request(method, "/api/categories", json={}).status_code == 405
    # No other origin is allowed anything: a preflight gets no permission.
    answer = client.options("/api/categories", headers={"origin": "http://evil.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_socket_is_not_opened(live: Live) -> None:
    text = (
        f"GET /api/project HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert status(raw(live, text.encode())) != 101


# ------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "name",
    [
        "..%2fmanifest.json",
        "..%2f..%2f..%2f..%2fetc%2fpasswd",
        "../../../../etc/passwd",
        "....//....//etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%5c..%5cetc",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "%00",
        "0%00.png",
        "0.png",
        "%ff%fe",
        "%252e%252e%252fetc",
        "a" * 5_000,
    ],
)
def test_a_path_leads_nowhere(live: Live, client: httpx.Client, name: str) -> None:
    targets = (
        f"/api/images/{name}",
        f"/api/images/{name}/thumbnail",
        f"/api/images/{name}/annotations",
        f"/static/{name}",
    )
    for target in (*targets, f"/api/jobs/{name}/log", f"/{name}"):
        assert request(live, target) in (404, 405), target


@pytest.mark.parametrize(
    "place", ["0/-1/0", "0/99999999999999999999/0", "1/0/0", "0/0/1", "99/0/0", "a/b/c", "0/0/%2e%2e"]
)
def test_tiles_that_are_not_there(live: Live, client: httpx.Client, place: str) -> None:
    assert request(live, f"/api/images/0/tiles/{place}") == 404


@pytest.mark.parametrize("cursor", ["-1", "x", "1e9", "9" * 400, "%D9%A3", "", "%00"])
def test_cursors_that_make_no_sense(client: httpx.Client, live: Live, cursor: str) -> None:
    assert request(live, f"/api/images?cursor={cursor}") == 400


# ------------------------------------------------------------------------------------------------------- bodies


def test_two_gigabytes_announced(live: Live, client: httpx.Client) -> None:
    head = (
        f"POST /api/categories HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nOrigin: {live.address}\r\n"
        f"Cookie: maskwright-{live.port}={live.token}\r\nContent-Type: application/json\r\n"
    )
    assert status(raw(live, f"{head}Content-Length: {2 * 2**30}\r\n\r\n{{".encode())) == 413
    for length in ("-1", "1e3", "٣".encode().decode("latin-1"), "99999999999999999999999"):
        assert status(raw(live, f"{head}Content-Length: {length}\r\n\r\n{{".encode("latin-1"))) in (400, 413)


def test_two_gigabytes_streamed(live: Live, client: httpx.Client) -> None:
    """Without a length: it is cut off near the bound, long before the two gigabytes, and the memory stays."""
    memory = _memory(live.process.pid)
    head = (
        f"POST /api/categories HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nOrigin: {live.address}\r\n"
        f"Cookie: maskwright-{live.port}={live.token}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    sent, answer = stream_two_gigabytes(live, head, b" ")
    assert sent < 3 * MAX_BODY, sent
    assert not answer or status(answer) == 413
    assert _memory(live.process.pid) < memory + 3 * MAX_BODY


def stream_two_gigabytes(live: Live, head: str, byte: bytes) -> tuple[int, bytes]:
    """Send a body in pieces, of one byte all over, until the server has had enough; bytes that went out, and what it answered."""
    piece = b"100000\r\n" + byte * 2**20 + b"\r\n"
    sent, answer = 0, b""
    with socket.create_connection(("127.0.0.1", live.port), PATIENCE) as connection:
        connection.sendall(head.encode())
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.settimeout(20)
            for _ in range(2048):
                connection.sendall(piece)
                sent += 2**20
        with contextlib.suppress(ConnectionError, TimeoutError):
            answer = connection.recv(65536)
    return sent, answer


def _memory(pid: int) -> int:
    """Bytes that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines() if Path("/proc/self").exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"{" + b'"a":{' * 200_000,
        b"[" * 500_000,
        b'{"base_rev": ' + b"9" * 5_000 + b"}",
        b'{"base_rev": 1e999, "client_id": "a", "operations": []}',
        b'{"base_rev": NaN, "client_id": "a", "operations": []}',
        b'{"base_rev": true, "client_id": "a", "operations": []}',
        b'{"base_rev": -1, "client_id": "a", "operations": []}',
        b'{"base_rev": 0, "client_id": "a", "operations": {}}',
        b'{"base_rev": 0, "client_id": ["a"], "operations": []}',
        b'{"base_rev": 0, "client_id": "\\ud800", "operations": []}',
        b'{"base_rev": 0, "operations": []}',
        b'{"client_id": "a", "operations": []}',
    ],
)
def test_malformed_bodies(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/api/images/0/operations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422, 428), answer.text
    assert answer.json()["error"]
    for path in ("/api/categories", "/api/images/0/predict", "/api/images/0/propose", "/api/jobs"):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500 or answer.status_code == 503, (path, answer.text)
        assert answer.json()["error"], path


MASK: dict[str, Any] = {
    "id": "m",
    "kind": "mask",
    "category": 1,
    "source": "brush",
    "mask": {"box": [0, 0, 2, 2], "counts": [0, 4]},
}
BOX: dict[str, Any] = {"id": "b", "kind": "box", "category": 1, "source": "hand", "xyxy": [1, 1, 5, 5]}


@pytest.mark.parametrize(
    "operation",
    [
        None,
        7,
        [],
        {},
        {"id": "wrong"},
        {"id": "wrong", "op": "eval"},
        {"id": "wrong", "op": ["put"]},
        {"id": ["wrong"], "op": "put", "object": BOX},
        {"id": "wrong", "op": "put"},
        {"id": "wrong", "op": "put", "object": [1]},
        {"id": "wrong", "op": "put", "object": BOX | {"kind": ["box"]}},
        {"id": "wrong", "op": "put", "object": BOX | {"kind": {"a": 1}}},
        {"id": "wrong", "op": "put", "object": BOX | {"source": ["hand"]}},
        {"id": "wrong", "op": "put", "object": BOX | {"category": 10**30}},
        {"id": "wrong", "op": "put", "object": BOX | {"category": [1]}},
        {"id": "wrong", "op": "put", "object": BOX | {"xyxy": [0, 0, 10**400, 5]}},
        {"id": "wrong", "op": "put", "object": BOX | {"xyxy": [[0], 0, 5, 5]}},
        {"id": "wrong", "op": "put", "object": BOX | {"xyxy": {"0": 1}}},
        {"id": "wrong", "op": "put", "object": MASK | {"mask": {"box": [0, 0, 2, 2], "counts": [2**53, -(2**53) + 4]}}},
        {"id": "wrong", "op": "put", "object": MASK | {"mask": {"box": [0, 0, 2**31, 2**31], "counts": [2**62]}}},
        {"id": "wrong", "op": "put", "object": MASK | {"mask": {"box": [0, 0, 96, 64], "counts": [10**18]}}},
        {"id": "wrong", "op": "put", "object": MASK | {"mask": {"box": [0, 0, 2, 2], "counts": [[4]]}}},
        {"id": "wrong", "op": "put", "object": MASK | {"mask": {"box": "0022", "counts": []}}},
        {"id": "wrong", "op": "put", "object": MASK | {"mask": [0, 0, 2, 2]}},
        {"id": "wrong", "op": "delete"},
        {"id": "wrong", "op": "delete", "object_id": {"a": 1}},
        {"id": "wrong", "op": "order", "ids": [1]},
        {"id": "wrong", "op": "order", "ids": "abc"},
        {"id": "wrong", "op": "order", "ids": [["a"]]},
        {"id": "wrong", "op": "tags", "tags": [True]},
        {"id": "wrong", "op": "tags", "tags": [[1]]},
        {"id": "wrong", "op": "tags", "tags": {"1": 1}},
        {"id": "wrong", "op": "tags", "tags": [10**30]},
        {"id": "wrong", "op": "nothing", "value": 1},
        {"id": "wrong", "op": "done", "value": "yes"},
    ],
)
def test_operations_that_make_no_sense(client: httpx.Client, operation: Any) -> None:
    before = client.get("/api/images/0/annotations").json()
    body = json.dumps({"base_rev": 0, "client_id": "a", "operations": [operation]})
    answer = client.post("/api/images/0/operations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]
    assert client.get("/api/images/0/annotations").json() == before


def test_one_wrong_operation_leaves_all_of_them_out(client: httpx.Client) -> None:
    before = client.get("/api/images/0/annotations").json()
    wrong = {"id": "second", "op": "put", "object": BOX | {"id": "b2", "xyxy": [0, 0, 9999, 5]}}
    assert change(client, "0", 0, {"id": "first", "op": "put", "object": BOX}, wrong).status_code == 422
    assert client.get("/api/images/0/annotations").json() == before


def test_huge_run_lengths_take_no_time(client: httpx.Client) -> None:
    counts = [0] * 4_000_001
    begun = time.monotonic()
    object_ = MASK | {"mask": {"box": [0, 0, 2, 2], "counts": counts}}
    answer = change(client, "0", 0, {"id": "long", "op": "put", "object": object_})
    assert answer.status_code == 422
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"points": [[1, 2]]},
        {"points": [[1, 2, 3]]},
        {"points": [["1", 2, 1]]},
        {"points": [[1e400, 2, 1]]},
        {"points": [[-1, 2, 1]]},
        {"points": [[1, 2, 1]] * 20_001},
        {"points": {"a": 1}},
        {"box": [5, 5, 5, 5]},
        {"box": "all"},
        {"points": [[1, 2, 1]], "mask": {"box": [0, 0, 10**9, 10**9], "counts": [10**18]}},
    ],
)
def test_questions_that_make_no_sense(client: httpx.Client, question: dict[str, Any]) -> None:
    content = json.dumps({"seq": 1} | question)
    answer = client.post("/api/images/0/predict", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422, 503), answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        {"recipe": "samix; rm -rf /", "minutes": 1},
        {"recipe": "../samix", "minutes": 1},
        {"recipe": ["samix"], "minutes": 1},
        {"recipe": "samix", "minutes": "1 --out /tmp"},
        {"recipe": "samix", "minutes": -1},
        {"recipe": "samix", "minutes": 10**30},
        {"recipe": "samix", "minutes": [1]},
        {"recipe": "samix"},
        {},
    ],
)
def test_trainings_that_make_no_sense(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post("/api/jobs", json=body)
    assert answer.status_code in (400, 422), answer.text
    assert client.get("/api/jobs").json() == {"jobs": []}


@pytest.mark.parametrize(
    "name", [None, "", " ", "a" * 10_000, "a\nb", "a\x00b", ["a"], {"a": 1}, 7, "object", "background"]
)
def test_categories_that_make_no_sense(client: httpx.Client, name: Any) -> None:
    before = client.get("/api/project").json()["categories"]
    assert client.post("/api/categories", json={"name": name}).status_code in (400, 422)
    assert client.get("/api/project").json()["categories"] == before


# ------------------------------------------------------------------------------------------------------- load


def test_slow_clients_hold_nobody_up(live: Live, client: httpx.Client) -> None:
    """A hundred clients that never finish their request, half of them in the head and half in the body."""
    head = f"POST /api/categories HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nOrigin: {live.address}\r\n"
    cookie = f"Cookie: maskwright-{live.port}={live.token}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    with contextlib.ExitStack() as stack:
        for number in range(100):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", live.port), 10))
            connection.sendall((head + (cookie if number % 2 else "X-Slow: ")).encode())
        for _ in range(20):
            begun = time.monotonic()
            assert client.get("/api/images/0/annotations").status_code == 200
            assert time.monotonic() - begun < 2


def test_a_flood_of_headers_ends_the_connection(live: Live, client: httpx.Client) -> None:
    endless = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1_000) for n in range(2_000))
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = raw(live, endless)
    assert not answer or status(answer) in (400, 431)


def test_two_hundred_clicks_at_once(live: Live, client: httpx.Client) -> None:
    """Each gets an answer, its own; all but the newest about one image may be told that they were overtaken."""
    live.wait_for_sam()
    rng = random.Random(0)

    def click(number: int) -> dict[str, Any]:
        image, x, y = str(number % 3), rng.uniform(1, 95), rng.uniform(1, 63)
        answer = client.post(f"/api/images/{image}/predict", json={"seq": number, "points": [[x, y, 1]]})
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(click, range(200)))
    assert [answer["seq"] for answer in answers] == list(range(200))
    answered = [answer for answer in answers if not answer.get("superseded")]
    assert len(answered) >= 3
    for answer in answered:
        for candidate in answer["candidates"]:
            x, y, width, height = candidate["mask"]["box"]
            assert 0 <= x < x + width <= 96
            assert 0 <= y < y + height <= 64
            assert sum(candidate["mask"]["counts"]) == width * height


def test_two_hundred_changes_at_once_lose_nothing(client: httpx.Client) -> None:
    def put(number: int) -> int:
        thing = BOX | {"id": f"object-{number}", "xyxy": [number % 90, number % 60, number % 90 + 2, number % 60 + 2]}
        return change(
            client, "1", 0, {"id": f"op-{number}", "op": "put", "object": thing}, who=f"c{number}"
        ).status_code

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(put, range(200))) == {200}
    assert {each["id"] for each in objects(client, "1")} == {f"object-{number}" for number in range(200)}


# ------------------------------------------------------------------------------------------------------- death and twins


def test_a_second_server_is_refused_in_one_line(live: Live) -> None:
    command = [sys.executable, "-m", "maskwright", "label", str(live.folder), "--no-browser", "--port", "0"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert second.returncode != 0
    said = (second.stdout + second.stderr).strip()
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 2, said
    assert "close the other labelling page" in said
    with live.client() as client:
        assert client.get("/api/project").status_code == 200


@pytest.mark.slow
def test_killed_in_the_middle_of_saves(tmp_path: Path) -> None:
    """Twenty times: what was said to be saved is there after the kill, whole, and so is the dataset."""
    folder, rng = _folder(tmp_path, 2), random.Random(1)
    saved: dict[str, list[int]] = {}
    for life in range(20):
        with Live(folder, tmp_path / "said.txt", ["--sam", str(tmp_path / "none")]) as live, live.client() as client:
            assert {each["id"]: each["mask"]["box"] for each in objects(client, "0")}.items() >= saved.items(), life
            before, patience = len(saved), time.monotonic() + PATIENCE

            def save(worker: int, client: httpx.Client = client, life: int = life, live: Live = live) -> None:
                number = 0
                while True:
                    number += 1
                    name, width = f"{life}-{worker}-{number}", rng.randint(1, 90)
                    thing = MASK | {"id": name, "mask": {"box": [worker, life, width, 1], "counts": [0, width]}}
                    operations = [
                        {"id": f"p-{name}", "op": "put", "object": thing},
                        {"id": f"d-{name}", "op": "done", "value": True},
                    ]
                    try:
                        answer = change(client, "0", 0, *operations)
                    except httpx.TransportError:
                        return
                    assert answer.status_code == 200, answer.text
                    saved[name] = thing["mask"]["box"]

            with ThreadPoolExecutor(2) as pool:
                running = [pool.submit(save, worker) for worker in range(2)]
                # On a busy machine the first save may take a while; after it the kill comes at any moment of another one.
                while len(saved) == before and time.monotonic() < patience:
                    time.sleep(0.002)
                time.sleep(rng.uniform(0.0, 0.2))
                live.kill()
                for each in running:
                    each.result()
        assert check(Dataset.load(folder), training=False) == [], life
    assert len(saved) > 20
    with Live(folder, tmp_path / "said.txt", ["--sam", str(tmp_path / "none")]) as live, live.client() as client:
        kept = objects(client, "0")
        assert {each["id"] for each in kept} >= saved.keys()
    mask = Dataset.load(folder)[0].labels.mask
    assert mask is not None
    expected = np.zeros((64, 96), np.uint16)
    for number, each in enumerate(kept, 1):
        x, y, width, height = each["mask"]["box"]
        expected[y : y + height, x : x + width] = number
    np.testing.assert_array_equal(read_mask(folder / mask.path), expected)
