"""In-context training, batched against one sample at a time: images per second and peak memory, at equal gradients.

    python benchmarks/in_context.py --json in_context.json

A step is what SAMIX's first stage does: encode, remember the references, recall them for the queries, decode, and
``loss.backward()`` through the adapters in the image encoder. Each of B queries has R references, which are other
images of the batch. All three ways compute the same loss, and the program fails unless their gradients agree to 1e-4:

- one by one: a loop over the queries, each encoding itself and its own references (as research code does it);
- batched: the same B x (1 + R) images, in one pass;
- encoded once: the recipe's way, batched, and every image is encoded and remembered once, however many refer to it.

Each way runs in a process of its own, so that the peak of one is not hidden by another's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor

from frame import SamTimingOptions, Table, publish
from maskwright.data.scenes import render
from maskwright.nets.losses import mask_loss
from maskwright.sam.adapter import add_adapters
from maskwright.sam.sam import Sam
from measure import in_own_process, load_sam, median_seconds, peak_bytes

TOLERANCE = 1e-4


@dataclass(kw_only=True)
class Config(SamTimingOptions):
    """In-context training, batched against one sample at a time."""

    batch: int = 8
    """Queries per step (B)."""
    references: int = 3
    """References per query (R), other images of the batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.references >= self.batch:
            raise SystemExit("--references must be smaller than --batch")


@dataclass
class Step:
    """Inputs of a step: images (B, 3, S, S), masks (B, 1, S, S) in 0..1, and which images each query is shown (B, R)."""

    sam: Sam
    images: Tensor
    masks: Tensor
    order: Tensor

    def one_by_one(self) -> None:
        for query, references in enumerate(self.order):
            rows = torch.cat([torch.tensor([query]), references])
            embedding = self.sam.encode(self.images[rows])
            memory = self.sam.remember(embedding[1:], self.masks[references])
            recalled = self.sam.recall(embedding[:1], memory[:, 0][None])
            (self._loss(recalled, self.masks[query : query + 1]) / len(self.images)).backward()

    def batched(self) -> None:
        count, references = self.order.shape
        embedding = self.sam.encode(torch.cat([self.images, self.images[self.order.flatten()]]))
        memory = self.sam.remember(embedding[count:], self.masks[self.order.flatten()])[:, 0]
        shown = memory[torch.arange(count * references).view(count, references)]
        self._loss(self.sam.recall(embedding[:count], shown), self.masks).backward()

    def encoded_once(self) -> None:
        embedding = self.sam.encode(self.images)
        memory = self.sam.remember(embedding, self.masks)[:, 0]
        self._loss(self.sam.recall(embedding, memory[self.order]), self.masks).backward()

    def _loss(self, recalled: Any, masks: Tensor) -> Tensor:
        logits = self.sam.decode(recalled).logits[:, 0, 0]
        return mask_loss(logits, torch.nn.functional.interpolate(masks, logits.shape[-2:], mode="area")[:, 0])


WAYS: dict[str, Callable[[Step], None]] = {
    "one by one": Step.one_by_one,
    "batched": Step.batched,
    "encoded once": Step.encoded_once,
}


def prepare(config: Config) -> tuple[Step, dict[str, torch.nn.Parameter]]:
    """The same inputs and adapters in every process."""
    torch.manual_seed(0)
    sam = load_sam(config.sam, config.size)
    add_adapters(sam)
    adapters = {name: p for name, p in sam.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in adapters.values():
            # A fresh adapter ends in zeros, so that only its last layer would get a gradient to compare.
            parameter.add_(0.02 * torch.randn_like(parameter))
    scenes = render(config.batch, sam.size, seed=0, difficulty=0.3)
    front = scenes.instances.flatten(1).amax(1)[:, None, None]
    masks = ((scenes.instances == front) & (front > 0)).float()[:, None]
    order = (torch.arange(config.batch)[:, None] + 1 + torch.arange(config.references)) % config.batch
    return Step(sam, scenes.images, masks, order), adapters


def measure(name: str, config: Config, folder: str) -> dict[str, Any]:
    """One way in a process of its own; the gradients go to a file."""
    torch.set_num_threads(config.threads)
    step, adapters = prepare(config)
    before = peak_bytes()

    def run() -> None:
        for parameter in adapters.values():
            parameter.grad = None
        WAYS[name](step)

    seconds = median_seconds(run, config.repeats)
    save_file({n: p.grad for n, p in adapters.items() if p.grad is not None}, Path(folder, f"{name}.safetensors"))
    peak = peak_bytes()
    return {
        "seconds": seconds,
        "images_per_second": config.batch / seconds,
        "peak_bytes": peak,
        "step_bytes": peak - before,
        "size": step.sam.size,
    }


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference of two sets of gradients, relative to the largest gradient."""
    if a.keys() != b.keys() or not a:
        raise SystemExit("the two ways give gradients to other parameters")
    largest = max(float(value.abs().max()) for value in a.values())
    return max(float((a[name] - b[name]).abs().max()) for name in a) / largest


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in WAYS:
            figures[name] = in_own_process(measure, name, config, folder)
        gradients = {name: load_file(Path(folder, f"{name}.safetensors")) for name in WAYS}
    first = next(iter(WAYS))
    for name, way in figures.items():
        way["gradient_difference"] = difference(gradients[first], gradients[name])
        way["speed_up"] = figures[first]["seconds"] / way["seconds"]
    publish(config, table(config, figures), config.settings() | {"size": figures[first]["size"]}, ways=figures)
    worst = max(way["gradient_difference"] for way in figures.values())
    if worst > TOLERANCE:
        raise SystemExit(f"gradients differ by {worst:.1e} of the largest, more than {TOLERANCE:.0e}")


def table(config: Config, figures: dict[str, dict[str, Any]]) -> Table:
    size = next(iter(figures.values()))["size"]
    return Table(
        f"In-context training: {config.batch} queries with {config.references} references, {size} pixels, {config.sam}",
        ["", "queries / s", "speed-up", "peak MiB", "over loading", "gradients differ"],
        [
            [
                name,
                f"{way['images_per_second']:.2f}",
                f"{way['speed_up']:.2f} x",
                f"{way['peak_bytes'] / 2**20:.0f}",
                f"{way['step_bytes'] / 2**20:.0f}",
                f"{way['gradient_difference']:.1e}",
            ]
            for name, way in figures.items()
        ],
        f"Median of {config.repeats} steps after one of warm-up. Peaks are of the whole process; `over loading` is by how "
        "much the steps exceed the peak of loading model and inputs. Differences are relative to the largest gradient.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
