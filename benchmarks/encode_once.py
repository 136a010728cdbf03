"""What it saves to encode an image once: in a loop of corrective clicks, and across runs by the embedding store.

    python benchmarks/encode_once.py --json encode_once.json

Part one clicks on an object in each of N images: a first click, then corrections inside the error, each decoded with
the logits of the answer before. `encode again` runs the image encoder before every click, `encode once` before the
first. The clicks are the same, and the program fails unless the masks are too.

Part two gets the embeddings of the N image files: by reading and encoding them, or out of an EmbeddingStore.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from frame import SamTimingOptions, Table, publish
from maskwright.data.dataset import Dataset
from maskwright.data.images import read_image
from maskwright.data.labels import Sample
from maskwright.data.scenes import render
from maskwright.sam.precompute import precompute, signature
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Embedding, Sam
from maskwright.sam.store import EmbeddingStore
from measure import load_sam, median_seconds


@dataclass(kw_only=True)
class Config(SamTimingOptions):
    """Encode once against encode again."""

    images: int = 8
    """Images (N)."""
    clicks: int = 6
    """Clicks on each: one, and the corrections."""


def plan_clicks(sam: Sam, images: Tensor, truth: Tensor, clicks: int) -> Prompts:
    """The clicks of a careful user, (N, 1, clicks): each in the middle of the largest error of the answer before.

    Args:
        images: (N, 3, S, S) in 0..1.
        truth: (N, S, S) bool.
    """
    embedding, previous, prompts = sam.encode(images), None, None
    error = truth
    for _ in range(clicks):
        places = torch.stack([_middle(one) for one in error])
        labels = truth[torch.arange(len(truth)), places[:, 1], places[:, 0]].long()
        click = Prompts.of_points(places[:, None, None] + 0.5, labels[:, None, None])
        prompts = click if prompts is None else prompts.join(click)
        previous = sam.decode(embedding, prompts, previous).best
        error = (F.interpolate(previous, truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0) ^ truth
    assert prompts is not None
    return prompts


def _middle(region: Tensor) -> Tensor:
    """The innermost pixel (x, y) of the largest part of a region (S, S); the first pixel where it is empty."""
    parts, count = cast("tuple[NDArray[np.int32], int]", ndimage.label(region.numpy()))
    if not count:
        return torch.zeros(2, dtype=torch.long)
    largest = 1 + np.bincount(parts.ravel())[1:].argmax()
    depth = np.asarray(ndimage.distance_transform_edt(parts == largest))
    y, x = divmod(int(depth.argmax()), region.shape[1])
    return torch.tensor([x, y])


def click_loop(sam: Sam, images: Tensor, prompts: Prompts, *, again: bool) -> list[Tensor]:
    """One image after the other, as a person works; the logits (1, 1, S/4, S/4) of each image's last answer."""
    answers = []
    for row in range(len(images)):
        embedding, previous = sam.encode(images[row : row + 1]), None
        for click in range(prompts.points.shape[2]):
            if again and click:
                embedding = sam.encode(images[row : row + 1])
            given = Prompts(
                prompts.points[row : row + 1, :, : click + 1], prompts.labels[row : row + 1, :, : click + 1]
            )
            previous = sam.decode(embedding, given, previous).best
        assert previous is not None
        answers.append(previous)
    return answers


def measure_clicks(config: Config, sam: Sam, images: Tensor, truth: Tensor) -> dict[str, float]:
    """Seconds per image for each way."""
    prompts = plan_clicks(sam, images, truth, config.clicks)
    once, twice = (click_loop(sam, images, prompts, again=again) for again in (False, True))
    if not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(once, twice, strict=True)):
        raise SystemExit("encode once and encode again give other masks")
    ways = {"encode again at every click": True, "encode once": False}
    return {
        name: median_seconds(lambda again=again: click_loop(sam, images, prompts, again=again), config.repeats)
        / len(images)
        for name, again in ways.items()
    }


def measure_store(config: Config, sam: Sam, images: Tensor, folder: Path) -> tuple[dict[str, float], float]:
    """Seconds per image for each way to an embedding, and the MiB on disk per image."""
    samples = []
    for number, image in enumerate((images * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{number}.png")
        samples.append(Sample(str(number), f"{number}.png"))
    dataset = Dataset(folder, ("background", "object"), tuple(samples))
    paths = [dataset.image_path(sample) for sample in dataset]
    told = signature(sam)
    kept = EmbeddingStore(folder / "store", told)
    precompute(sam, dataset, kept)
    stored = sum(file.stat().st_size for file in (folder / "store").rglob("*.safetensors"))

    def encode() -> list[Embedding]:
        pixels = [torch.from_numpy(read_image(path)).permute(2, 0, 1)[None] / 255 for path in paths]
        return [sam.encode(one) for one in pixels]

    def from_disk() -> list[dict[str, Tensor]]:
        store = EmbeddingStore(folder / "store", told, memory_bytes=0)
        return [store.load([store.key(path)]) for path in paths]

    def from_memory() -> list[dict[str, Tensor]]:
        return [kept.load([kept.key(path)]) for path in paths]

    for made, read in zip(encode(), from_disk(), strict=True):
        if not all(torch.allclose(getattr(made, level), value, atol=1e-4) for level, value in read.items()):
            raise SystemExit("the store gives other embeddings than the encoder")
    ways: dict[str, Callable[[], object]] = {
        "read the file and encode": encode,
        "store, from disk": from_disk,
        "store, kept in memory": from_memory,
    }
    return (
        {name: median_seconds(call, config.repeats) / len(paths) for name, call in ways.items()},
        stored / len(paths) / 2**20,
    )


@torch.inference_mode()
def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    sam = load_sam(config.sam, config.size)
    scenes = render(config.images, sam.size, seed=0, difficulty=0.3)
    front = scenes.instances.flatten(1).amax(1)[:, None, None]
    clicks = measure_clicks(config, sam, scenes.images, (scenes.instances == front) & (front > 0))
    with tempfile.TemporaryDirectory() as folder:
        embeddings, mebibytes = measure_store(config, sam, scenes.images, Path(folder))
    settings, seconds = config.settings() | {"size": sam.size}, {"clicks": clicks, "embeddings": embeddings}
    table = table_of(config, clicks, embeddings, sam.size, mebibytes)
    publish(config, table, settings, seconds_per_image=seconds, store_mib=mebibytes)


def table_of(
    config: Config, clicks: dict[str, float], embeddings: dict[str, float], size: int, mebibytes: float
) -> Table:
    """Of seconds per image by what was done and how."""
    rows: list[list[str]] = []
    for title, part in ((f"{config.clicks} clicks", clicks), ("an embedding", embeddings)):
        slowest = next(iter(part.values()))
        rows += [[f"{title}: {name}", f"{1000 * s:.3g}", f"{slowest / s:.3g} x"] for name, s in part.items()]
    return Table(
        f"Encode once: {config.images} images, {size} pixels, {config.sam}",
        ["", "ms per image", "speed-up"],
        rows,
        f"Median of {config.repeats} runs after one of warm-up. An embedding takes {mebibytes:.2f} MiB on disk in "
        "float32; `from disk` reads files that the system has in its cache.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
