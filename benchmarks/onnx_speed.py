"""PyTorch against ONNX Runtime on a CPU: SAM's encoder and a click, masks of a semantic segmenter, objects of a dense one.

    python benchmarks/onnx_speed.py --json onnx_speed.json

The same image goes in as bytes in its own size, and what users get comes out in its own size: Pillow squashes it to the canvas for
PyTorch, ONNX holds that step itself. The segmenters stand on SAM's encoder and are untrained, which takes the same time. A process is a
whole `maskwright predict` of that image, Python's start included. The program fails where exporting does: where answers differ by
more than 1e-3.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray
from PIL import Image

from frame import SamTimingOptions, Table, publish
from maskwright import api
from maskwright.data.geometry import squash
from maskwright.data.scenes import render
from maskwright.engine.model import describe
from maskwright.engine.weights import save_model
from maskwright.export.onnx_models import export_sam
from maskwright.export.onnx_sam import OnnxSam
from maskwright.nets import dense_instances
from maskwright.nets.segmenter import SamSegmenter
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Embedding, Sam
from measure import load_sam, median_seconds

CATEGORIES = ("background", "one", "two")


@dataclass(kw_only=True)
class Config(SamTimingOptions):
    """PyTorch against ONNX Runtime."""

    width: int = 640
    """Of the image in pixels."""
    height: int = 480
    """Of the image in pixels."""
    repeats: int = 15


@dataclass(frozen=True)
class Ways:
    """The same by PyTorch and by ONNX Runtime, and the largest difference of the answers."""

    torch: Callable[[], object]
    onnx: Callable[[], object]
    difference: str


def ways_of_sam(sam: Sam, image: NDArray[np.uint8], folder: Path) -> dict[str, Ways]:
    """Encoding, and a click in the middle of the image whose mask has the image's size."""
    encoder, decoder = export_sam(sam, folder)
    onnx, size = OnnxSam(folder), (image.shape[1], image.shape[0])

    def encode() -> Embedding:
        canvas = torch.from_numpy(squash(image, sam.size)).permute(2, 0, 1)[None]
        return sam.encode(canvas.float() / 255)

    embedding, encoded = encode(), onnx.encode(image)
    middle = torch.full((1, 1, 1, 2), sam.size / 2)
    click = Prompts.of_points(middle, torch.ones(1, 1, 1, dtype=torch.long))

    def decode() -> NDArray[np.bool_]:
        logits = sam.decode(embedding, click, multimask=True).best
        return (F.interpolate(logits, size[::-1], mode="bilinear", align_corners=False)[0, 0] > 0).numpy()

    def far(differences: dict[str, float]) -> str:
        return f"{max(differences.values()):.0e}"

    return {
        "SAM: encode": Ways(encode, lambda: onnx.encode(image), far(encoder.differences)),
        "SAM: a click": Ways(
            decode, lambda: onnx.decode(encoded, [(size[0] / 2, size[1] / 2)], [1]), far(decoder.differences)
        ),
    }


def runs_of(sam: Sam, folder: Path) -> dict[str, Path]:
    """Run directories with untrained segmenters on SAM's encoder: what they give → where they are."""
    semantic = SamSegmenter.of(sam, len(CATEGORIES), sam.size)
    dense = dense_instances.create(sam, len(CATEGORIES), sam.size, sam.size / 640)
    runs = {"masks of categories": folder / "semantic", "objects": folder / "instances"}
    config = describe("samix", CATEGORIES, sam.size, segmenter=semantic.description())
    save_model(runs["masks of categories"] / "model", semantic.state_dict(), config, "# untrained")
    config = describe("s4m", CATEGORIES, sam.size, segmenter=dense.description(), crop=None)
    save_model(runs["objects"] / "model", dense.state_dict(), config, "# untrained")
    return runs


def ways_of_run(run: Path, image: NDArray[np.uint8]) -> Ways:
    api.export_model(run)
    by_torch, by_onnx = api.load(run, device="cpu"), api.load_onnx(run)
    one, other = next(by_torch.predict(image)), next(by_onnx.predict(image))
    share = float((one.mask != other.mask).mean())
    return Ways(lambda: next(by_torch.predict(image)), lambda: next(by_onnx.predict(image)), f"{share:.2%} of pixels")


def process_ways(run: Path, image: NDArray[np.uint8], folder: Path) -> Ways:
    """``maskwright predict`` of one image in a process of its own."""
    Image.fromarray(image).save(folder / "image.png")

    def predict(engine: str) -> None:
        words = ["predict", run, folder / "image.png", "--out", folder / engine, "--engine", engine, "--overwrite"]
        command = [sys.executable, "-m", "maskwright", *map(str, words), "--device", "cpu"]
        subprocess.run(command, check=True, capture_output=True)

    return Ways(lambda: predict("torch"), lambda: predict("onnx"), "")


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    os.environ["OMP_NUM_THREADS"] = str(config.threads)  # ONNX Runtime's sessions, and processes, read it
    torch.manual_seed(0)
    sam = load_sam(config.sam, config.size).requires_grad_(False)
    scene = (render(1, 512, seed=0, difficulty=0.3).images[0] * 255).byte().permute(1, 2, 0).numpy()
    image = np.array(Image.fromarray(scene).resize((config.width, config.height), Image.Resampling.BICUBIC))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ways = ways_of_sam(sam, image, folder / "sam")
        runs = runs_of(sam, folder)
        ways |= {what: ways_of_run(run, image) for what, run in runs.items()}
        ways["a process of `predict`"] = process_ways(runs["masks of categories"], image, folder)
        with torch.inference_mode():
            seconds = {
                what: {engine: median_seconds(getattr(way, engine), config.repeats) for engine in ("torch", "onnx")}
                for what, way in ways.items()
            }
    settings, differences = config.settings() | {"size": sam.size}, {what: way.difference for what, way in ways.items()}
    publish(
        config, table_of(config, sam.size, seconds, differences), settings, seconds=seconds, differences=differences
    )


def table_of(config: Config, size: int, seconds: dict[str, dict[str, float]], differences: dict[str, str]) -> Table:
    rows = [
        [
            what,
            f"{1000 * by['torch']:.3g}",
            f"{1000 * by['onnx']:.3g}",
            f"{by['torch'] / by['onnx']:.2g} x",
            differences[what],
        ]
        for what, by in seconds.items()
    ]
    import onnxruntime

    return Table(
        f"PyTorch and ONNX Runtime: an image of {config.width} x {config.height}, canvas {size}, {config.sam}",
        ["", "torch, ms", "onnx, ms", "faster by", "difference"],
        rows,
        f"onnxruntime {onnxruntime.__version__}. Median of {config.repeats} calls after one of warm-up.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
