"""Clicks per second: one environment that asks the whole model at every click, against many in one decode.

    python benchmarks/click_env.py --json click_env.json

All ways place the same clicks (drawn at random, on a grid of 32 x 32 cells) on the same objects of procedural scenes,
with the same SAM, see the same 6 x 128 x 128 picture after each, and are rewarded with the change of Dice. The program
fails unless their masks agree.

- published: one environment; at each click `transformers.Sam2Model` gets the pixels and all clicks, as published agents do it;
- cached: the same model gets its own image embeddings instead of the pixels;
- N images: `ClickVectorEnv` with N environments.

Only steps are timed, not resets. Each way runs in a process of its own, so that the peak memory of one is not hidden by
another's. A profile of the largest batch says what bounds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import Sam2Config, Sam2Model

from frame import SamTimingOptions, Table, publish
from maskwright.data.scenes import render
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import dice, first_click
from maskwright.rl.envs import GRID, PIXELS, ClickEnvSettings, ClickVectorEnv
from maskwright.sam import click_grid
from maskwright.sam.frozen import FrozenDecoder
from maskwright.sam.sam import Sam
from measure import in_own_process, load_sam, peak_bytes

Times = NDArray[np.float64]

TOLERANCE = 1e-3
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "addmm_", "baddbmm_", "linear", "mv"),
    "attention among tokens": ("_scaled_dot_product_flash_attention_for_cpu",),
    "GELU, softmax, norms": ("gelu", "_softmax", "native_layer_norm", "sigmoid", "exp"),
    "copies and gathers": (
        "copy_",
        "index_select",
        "index",
        "_index_put_impl_",
        "cat",
        "clone",
        "gather",
        "index_copy_",
    ),
}


@dataclass(kw_only=True)
class Config(SamTimingOptions):
    """Clicks per second of click environments."""

    images: tuple[int, ...] = (1, 8, 32, 128)
    """Environments in a batch (N), one row of the table each."""
    clicks: int = 5
    """Clicks of an episode."""
    one_by_one: int = 4
    """Episodes of the ways with one environment."""


class OneByOne:
    """One environment around the model of `transformers`, written as one would write it.

    Args:
        cached: keep the image's embeddings instead of encoding it at each click.
    """

    def __init__(self, sam: Sam, bank: Bank, *, cached: bool) -> None:
        self.model = whole_model(sam)
        self.bank, self.cached, self.size = bank, cached, sam.size
        self.pixels = sam.normalise(bank.pixels.to(sam.dtype) / 255)
        small = F.interpolate(bank.pixels.float(), (PIXELS, PIXELS), mode="bilinear", antialias=True)
        self.pictures = small.round().byte().numpy()

    def reset(self, row: int) -> None:
        self.row, image = torch.tensor([row]), int(self.bank.image[row])
        self.given: dict[str, Any] = {"pixel_values": self.pixels[image : image + 1]}
        if self.cached:
            self.given = {"image_embeddings": self.model.get_image_embeddings(self.given["pixel_values"])}
        place, label, _ = first_click(self.bank, self.row)
        self.points, self.labels = place[None, None], label[None, None]
        self.spots = np.zeros((2, PIXELS, PIXELS), np.float32)
        self._draw(place, int(label))
        self.picture = self.pictures[image]
        self.logits = self._ask(None)
        self.score = float(dice(self.bank, self.row, self.logits))

    def step(self, action: int) -> tuple[NDArray[np.uint8], float]:
        place, label = click_grid.places_of(torch.tensor([action]), self.size, GRID)
        self.points = torch.cat([self.points, place[None, None]], 2)
        self.labels = torch.cat([self.labels, label[None, None]], 2)
        self.logits = self._ask(self.logits)
        self._draw(place, int(label))
        mask = F.interpolate(self.logits[:, None], (PIXELS, PIXELS), mode="bilinear", align_corners=False)[0] > 0
        before, self.score = self.score, float(dice(self.bank, self.row, self.logits))
        seen = [self.picture, mask.numpy().astype(np.uint8) * 255, (self.spots * 255).round().astype(np.uint8)]
        return np.concatenate(seen), self.score - before

    def _draw(self, place: Tensor, label: int) -> None:
        spot = click_grid.spots(place, self.size, PIXELS)[0].numpy()
        self.spots[1 - label] = np.maximum(self.spots[1 - label], spot)

    def _ask(self, previous: Tensor | None) -> Tensor:
        answer = self.model(
            **self.given,
            # The model adds half a pixel to every place.
            input_points=self.points - 0.5,
            input_labels=self.labels,
            input_masks=None if previous is None else previous[:, None],
            multimask_output=previous is None,
        )
        best = answer.iou_scores[0, 0].argmax() if previous is None else 0
        return answer.pred_masks[:, 0, best]


def whole_model(sam: Sam) -> Sam2Model:
    """The image model of `transformers` with the weights of a SAM on its own canvas size."""
    config = sam.model.config
    if config.image_size != sam.size:
        raise SystemExit(f"the whole model of {sam.name} works at {config.image_size} pixels only")
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    model = Sam2Model(Sam2Config(**{part: getattr(config, part).to_dict() for part in parts})).eval()
    weights = sam.model.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model


def prepare(config: Config) -> tuple[Sam, Bank, NDArray[np.int64]]:
    """The same targets and actions (clicks, targets) in every process."""
    torch.manual_seed(0)
    sam = load_sam(config.sam, config.size)
    count = max(*config.images, config.one_by_one)
    # A few scenes at a time: a large batch of them takes more memory than anything that is measured.
    parts = [Bank.of_scenes(sam, render(4, sam.size, seed=0, difficulty=0.3))]
    while sum(map(len, parts)) < count:
        parts.append(Bank.of_scenes(sam, render(4, sam.size, seed=len(parts), difficulty=0.3)))
    bank = Bank.cat(parts).select(torch.arange(count))
    return sam, bank, np.random.default_rng(0).integers(0, 2 * GRID * GRID, (config.clicks, count))


def run_one_by_one(config: Config, sam: Sam, bank: Bank, actions: NDArray[np.int64], cached: bool) -> tuple[Any, ...]:
    env = OneByOne(sam, bank, cached=cached)
    masks: list[Tensor] = []

    def run() -> Times:
        spent = np.zeros(2)
        masks.clear()
        for row in range(config.one_by_one):
            env.reset(row)
            started = now()
            for action in actions[:, row]:
                env.step(int(action))
            spent += now() - started
            masks.append(env.logits[0] > 0)
        return spent / (config.one_by_one * config.clicks)

    return median(run, config.repeats), masks, 0, {}


def run_batched(config: Config, sam: Sam, bank: Bank, actions: NDArray[np.int64], count: int) -> tuple[Any, ...]:
    settings = ClickEnvSettings(observation="pixels", max_clicks=config.clicks, shuffle=False)
    env = ClickVectorEnv(sam, bank, count, settings)
    rows = {"rows": np.arange(count)}

    def run() -> Times:
        env.reset(seed=0, options=rows)
        started = now()
        for step in range(config.clicks):
            env.step(actions[step, :count])
        return (now() - started) / (count * config.clicks)

    times = median(run, config.repeats)
    masks = list(env.state.logits > 0)[: config.one_by_one]
    told = profiled(env, actions[:, :count], times) if count == max(config.images) else {}
    return times, masks, env.nbytes / count, told


def now() -> Times:
    """Time on the clock, and time that this process spent on all of its threads."""
    return np.array([time.perf_counter(), time.process_time()])


def median(run: Callable[[], Times], repeats: int) -> Times:
    """Of ``repeats`` runs that time themselves, after one that is not counted."""
    return np.median([run() for _ in range(repeats + 1)][1:], axis=0)


def profiled(env: ClickVectorEnv, actions: NDArray[np.int64], times: Times) -> dict[str, Any]:
    """Shares of the time of a step: SAM's decode in all of it, and kinds of operation."""
    state = env.state
    sam, cells, images = FrozenDecoder.of(env.sam), env.bank.cells, env.bank.image[state.rows]
    points, labels = state.points[:, None], state.labels[:, None]

    def decode() -> Times:
        started = now()
        sam.decode(cells, images, points, labels, state.logits)
        return (now() - started) / len(state)

    share = float((median(decode, 5) / times)[1])
    env.reset(seed=0, options={"rows": np.arange(env.num_envs)})
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for step in actions:
            env.step(step)
    times = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in found.key_averages()}
    total = sum(times.values())
    shares = {kind: sum(times.get(name, 0.0) for name in names) / total for kind, names in KINDS.items()}
    largest = sorted(times.items(), key=lambda item: -item[1])[:8]
    return {
        "decode": share,
        "kinds": shares | {"all else": 1 - sum(shares.values())},
        "largest": {name: spent / total for name, spent in largest},
    }


@torch.no_grad()
def measure(name: str, config: Config) -> dict[str, Any]:
    """One way in a process of its own."""
    torch.set_num_threads(config.threads)
    sam, bank, actions = prepare(config)
    if name in ("published", "cached"):
        found = run_one_by_one(config, sam, bank, actions, name == "cached")
    else:
        found = run_batched(config, sam, bank, actions, int(name))
    (seconds, cpu_seconds), masks, bytes_each, told = found
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "clicks_per_second": 1 / seconds,
        "masks": np.packbits(torch.stack(masks).numpy()).tobytes(),
        "bytes_each": bytes_each,
        "bank_bytes_each": bank.nbytes / len(bank),
        "peak_bytes": peak_bytes(),
        "profile": told,
        "size": sam.size,
    }


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    figures: dict[str, dict[str, Any]] = {}
    for name in ("published", "cached", *map(str, config.images)):
        figures[name] = in_own_process(measure, name, config)
    wanted = np.frombuffer(figures["published"]["masks"], np.uint8)
    for found in figures.values():
        masks = np.frombuffer(found.pop("masks"), np.uint8)
        # A batch smaller than the episodes of one environment has fewer masks to compare.
        found["masks_differ"] = float(np.unpackbits(masks ^ wanted[: len(masks)]).mean())
        found["speed_up"] = figures["published"]["seconds"] / found["seconds"]
        found["over_cached"] = figures["cached"]["seconds"] / found["seconds"]
    size = {way.pop("size") for way in figures.values()}.pop()
    publish(config, table(config, figures, size), config.settings() | {"size": size}, ways=figures)
    worst = max(found["masks_differ"] for found in figures.values())
    if worst > TOLERANCE:
        raise SystemExit(f"{worst:.1e} of the masks' pixels differ, more than {TOLERANCE:.0e}")


def table(config: Config, figures: dict[str, dict[str, Any]], size: int) -> Table:
    rows = [
        [
            name,
            f"{found['clicks_per_second']:.0f}",
            f"{1000 * found['seconds']:.2f}",
            f"{1000 * found['cpu_seconds']:.2f}",
            f"{found['speed_up']:.1f} x",
            f"{found['over_cached']:.1f} x",
            f"{found['peak_bytes'] / 2**20:.0f}",
            f"{found['bytes_each'] / 2**10:.0f}" if found["bytes_each"] else "",
        ]
        for name, found in figures.items()
    ]
    largest = figures[str(max(config.images))]
    told = largest["profile"]
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in told["kinds"].items())
    return Table(
        f"Click environments: {config.clicks} clicks an episode, {size} pixels, {config.sam}",
        ["", "clicks / s", "ms a click", "CPU ms", "over published", "over cached", "peak MiB", "KiB each"],
        rows,
        f"Median of {config.repeats} runs after one of warm-up. `CPU ms` is the time of all threads, which other programs on "
        f"the machine change less. `KiB each` is what an environment adds; a target in the bank "
        f"takes {largest['bank_bytes_each'] / 2**20:.2f} MiB. Of a step of the largest batch SAM's decode is "
        f"{told['decode']:.0%}; by operation: {kinds}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
