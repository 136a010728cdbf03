"""The example page, `examples/browser`, as docs/onnx.md has it started: SAM in the browser gives the masks that it gives in Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from maskwright.export.onnx_models import picture
from maskwright.export.onnx_sam import OnnxSam
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Sam

pytestmark = pytest.mark.slow  # the decoder takes a while to be traced

ROOT = Path(__file__).parents[3]
EXAMPLE, CHECKS = ROOT / "examples" / "browser", ROOT / "tests" / "page"


def install(folder: Path) -> None:
    """onnxruntime-web: that of the page's checks, where it is, since CI has installed them; else as a user would."""
    there = CHECKS / "node_modules" / "onnxruntime-web"
    if there.is_dir():
        (folder / "node_modules").mkdir()
        (folder / "node_modules" / "onnxruntime-web").symlink_to(there)
        return
    done = None
    if shutil.which("npm"):
        done = subprocess.run(["npm", "install", "--silent"], cwd=folder, capture_output=True, text=True, check=False)
    if done is None or done.returncode:
        reason = "npm cannot install onnxruntime-web" if done else "Node's npm is not installed"
        if os.environ.get("MASKWRIGHT_BROWSER") == "required" and done:
            pytest.fail(f"{reason}: {done.stderr}")
        pytest.skip(reason)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory, tiny_sam_onnx: Path) -> Path:
    """The example's folder with onnxruntime-web and the tiny SAM."""
    folder = tmp_path_factory.mktemp("example") / "browser"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "models"))
    install(folder)
    shutil.copytree(tiny_sam_onnx, folder / "models")
    return folder


@pytest.fixture(scope="module")
def address(example: Path) -> Iterator[str]:
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(command, cwd=example, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        port = re.search(r"port (\d+)", server.stdout.readline())
        assert port is not None
        yield f"http://127.0.0.1:{port[1]}/"
        server.terminate()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page with SAM loaded, without any network but its own server."""
    page = browser.new_page()
    elsewhere: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: None if request.url.startswith(address) else elsewhere.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    expect(page.locator("output")).to_have_text(re.compile(r"SAM loaded: \d+ ms"), timeout=60_000)
    yield page
    page.close()
    assert not [url for url in elsewhere if not url.startswith(("blob:", "data:"))]
    assert not wrong


def said(page: Page, what: str) -> None:
    expect(page.locator("output")).to_have_text(re.compile(rf"{what}: \d+ ms"), timeout=60_000)


def pixels(page: Page) -> NDArray[np.int64]:
    """(H, W, 4) what the canvas shows."""
    data, width = page.evaluate(
        "() => { const c = document.querySelector('canvas');"
        "return [[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data], c.width]; }"
    )
    return np.array(data).reshape(-1, width, 4)


def open_image(page: Page, image: NDArray[np.uint8], tmp_path: Path) -> NDArray[np.int64]:
    # Each has a name of its own: the same file again is no change to a browser.
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
    Image.fromarray(image).save(path)
    page.set_input_files("input", path)
    said(page, "image encoded")
    shown = pixels(page)
    np.testing.assert_array_equal(shown[..., :3], image)
    return shown


def click(page: Page, x: float, y: float, button: str = "left") -> None:
    page.evaluate("() => { document.querySelector('output').textContent = ''; }")
    page.locator("canvas").click(position={"x": x, "y": y}, button=button)  # type: ignore[arg-type]
    said(page, "mask made")


def test_clicks_give_the_masks_of_python(page: Page, example: Path, tmp_path: Path):
    image = picture((96, 160), 3) // 2  # Halved, so that what a mask covers changes its colour.
    shown = open_image(page, image, tmp_path)
    sam = OnnxSam(example / "models")
    clicks = [(80.5, 48.5), (120.5, 70.5)]
    click(page, *clicks[0])
    first = sam.decode(sam.encode(image), clicks[:1], [1])
    assert ((pixels(page) != shown).any(-1) == first.mask).mean() > 0.999
    click(page, *clicks[1], "right")
    second = sam.decode(sam.encode(image), clicks, [1, 0], previous=first.logits)
    mask = (pixels(page) != shown).any(-1)
    assert 300 < mask.sum() < 3000  # This SAM has random weights: its first answers are nearly nothing.
    assert (mask & second.mask).sum() / (mask | second.mask).sum() > 0.99
    # Another image begins anew.
    shown = open_image(page, image[::-1].copy(), tmp_path)
    click(page, *clicks[0])
    other = sam.decode(sam.encode(image[::-1].copy()), clicks[:1], [1])
    assert ((pixels(page) != shown).any(-1) == other.mask).mean() > 0.999


def test_logits_are_those_of_the_four_verbs(page: Page, tiny_sam_folder: Path):
    image = picture((64, 64), 3)  # Of the canvas' own size: both see the same pixels.
    data = np.concatenate([image, np.full((64, 64, 1), 255, np.uint8)], -1)
    answer = page.evaluate(
        """async (data) => {
            const { Sam } = await import("./sam.mjs");
            const sam = await Sam.load("models");
            const image = await sam.encode(new ImageData(new Uint8ClampedArray(data), 64, 64));
            const { logits, iou } = await sam.decode(image, [{ x: 20, y: 30, on: true }]);
            return { logits: [...logits], iou };
        }""",
        data.flatten().tolist(),
    )
    sam = Sam.load(str(tiny_sam_folder)).requires_grad_(False)
    embedding = sam.encode(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    prompts = Prompts.of_points(torch.tensor([[[[20.0, 30.0]]]]), torch.tensor([[[1]]]))
    masks = sam.decode(embedding, prompts, multimask=True)
    np.testing.assert_allclose(np.array(answer["logits"]).reshape(16, 16), masks.best[0, 0], atol=1e-3)
    assert answer["iou"] == pytest.approx(float(masks.best_iou[0, 0]), abs=1e-3)


def test_what_goes_wrong_is_said(page: Page, tmp_path: Path):
    (tmp_path / "no.png").write_text("no image")
    page.set_input_files("input", tmp_path / "no.png")
    expect(page.locator("output")).to_have_text(re.compile("image encoded: .*could not be decoded"), timeout=20_000)


def test_the_runtime_is_pinned_once():
    pins = [json.loads((folder / "package.json").read_text()) for folder in (EXAMPLE, CHECKS)]
    pinned = pins[0]["dependencies"]["onnxruntime-web"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", pinned)
    assert pins[1]["devDependencies"]["onnxruntime-web"] == pinned
