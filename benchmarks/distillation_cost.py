"""What structural distillation costs: SAM's similarities for all query points in one batch, against one point after the other.

    python benchmarks/distillation_cost.py --json distillation_cost.json

The naive way asks SAM's whole mask decoder once for each click and keeps the output of its transformer; the batched one runs only
that transformer, for all clicks of all images together. The program fails unless both give the same. Then a whole step of the teacher,
with and without distillation. Every row is measured in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from frame import Table, TimingOptions, publish
from maskwright.data.instances import Instances
from maskwright.methods.instances.distillation import (
    distillation_loss,
    query_points,
    sam_similarities,
    similarities,
)
from maskwright.methods.instances.set_loss import SetLoss
from maskwright.nets.instance import create
from maskwright.sam.click_grid import cell_numbers
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Embedding, Sam
from measure import in_own_process, load_sam, median_seconds, peak_bytes

ROWS = ("nothing", "naive", "batched", "step without", "step with")


@dataclass(kw_only=True)
class Config(TimingOptions):
    """Structural distillation, batched against naive."""

    sam: str = "nano"
    """What `Sam.load` takes, or `random`: nano's architecture with random weights."""
    sam_size: int = 256
    size: int = 128
    """Side of the segmenter's canvas."""
    images: int = 4
    points: int = 128
    """Query points of each image."""
    threads: int = 1


@torch.no_grad()
def naive(sam: Sam, embedding: Embedding, points: Tensor, canvas: int) -> Tensor:
    """Similarities (B, P, h·w), one click after the other."""
    grid = embedding.low.shape[-2], embedding.low.shape[-1]
    caught: list[Tensor] = []
    hook = sam.model.mask_decoder.transformer.register_forward_hook(lambda _, __, output: caught.append(output[1]))
    rows = []
    for image in range(len(points)):
        for point in range(points.shape[1]):
            click = points[image, point].view(1, 1, 1, 2) * (sam.size / canvas)
            sam.decode(
                embedding[[image]], Prompts.of_points(click, torch.ones(1, 1, 1, dtype=torch.long)), multimask=True
            )
            cell = cell_numbers(points[image, point], (canvas, canvas), grid).view(1, 1)
            rows.append(similarities(caught.pop()[:, 0][:, None], cell)[0, 0])
    hook.remove()
    return torch.stack(rows).view(*points.shape[:2], -1)


def task(config: Config, row: str) -> Callable[[], object]:
    """What one row does."""
    torch.manual_seed(0)
    sam, size = load_sam(config.sam, config.sam_size).requires_grad_(False), config.size
    images = torch.rand(config.images, 3, size, size)
    ids = torch.arange(16).view(4, 4).repeat_interleave(size // 4, 0).repeat_interleave(size // 4, 1)
    masks = torch.stack([ids == k for k in range(0, 16, 2)]).repeat(config.images, 1, 1)
    truth = Instances(masks, torch.arange(config.images).repeat_interleave(8), torch.ones(len(masks), dtype=torch.long))
    inside = torch.ones(config.images, size, size, dtype=torch.bool)
    points = query_points(inside, inside, torch.Generator().manual_seed(0), config.points)
    with torch.no_grad():
        embedding = sam.encode(images)
    if row == "nothing":
        return lambda: None
    if row == "naive":
        return lambda: naive(sam, embedding, points, size)
    if row == "batched":
        batched, one_by_one = sam_similarities(sam, embedding, points, size), naive(sam, embedding, points, size)
        if not torch.allclose(batched, one_by_one, atol=1e-4):
            raise SystemExit(f"the two ways differ by {(batched - one_by_one).abs().max():.2g}")
        return lambda: sam_similarities(sam, embedding, points, size)
    network, grid = create("sam", sam, 2, size), (config.sam_size // 16, config.sam_size // 16)
    loss = SetLoss()

    def step() -> None:
        queries = network(images)
        parts = loss(queries.classes, queries.masks, truth, torch.Generator().manual_seed(0))
        if row == "step with":
            with torch.no_grad():
                target = sam_similarities(sam, sam.encode(images), points, size)
            parts["distillation"] = distillation_loss(queries.features, target, points, size, grid)
        torch.stack(list(parts.values())).sum().backward()

    return step


def measure(config: Config, row: str) -> dict[str, float]:
    """Seconds and the process' peak memory in MiB."""
    torch.set_num_threads(config.threads)
    call = task(config, row)
    seconds = median_seconds(call, config.repeats)
    return {"seconds": seconds, "peak_mib": peak_bytes() / 2**20}


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    figures = {row: in_own_process(measure, config, row) for row in ROWS}
    publish(config, table(config, figures), config.settings(), rows=figures)


def table(config: Config, figures: dict[str, dict[str, float]]) -> Table:
    base = figures["nothing"]["peak_mib"]
    labels = {
        "naive": "similarities, one click at a time",
        "batched": "similarities, batched",
        "step without": "teacher step without distillation",
        "step with": "teacher step with distillation",
    }
    faster = figures["naive"]["seconds"] / figures["batched"]["seconds"]
    return Table(
        f"Distillation: {config.images} images of {config.size} px, {config.points} clicks each, SAM {config.sam}",
        ["", "seconds", "MiB"],
        [
            [text, f"{figures[row]['seconds']:.3f}", f"{figures[row]['peak_mib'] - base:.0f}"]
            for row, text in labels.items()
        ],
        f"Batched is {faster:.1f} times as fast. Memory: peak of the process above one that only loads SAM.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
