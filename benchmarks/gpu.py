"""Images and clicks per second on this device: float32 against bf16, eager against compiled, and how near to what the card can do.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --device cpu --sam random --size 64 --batch 2 --environments 2 --ways eager --repeats 1

The second command rehearses the program on a CPU. It has never run on a GPU so far: none was at hand when it was written.

- warm-up: a step of SAMIX's stage 1 (encode, references, decode, gradients, AdamW);
- fit: a step of its stage 2, with the share of SAM's own step that falls on it;
- clicks: steps of a batch of click environments;
- predict: a segmenter on a batch that lies on the device.

"Of the roofline" is the least time that the work can take here, divided by the time that it took. The least time is the larger of two:
the arithmetic of the call's matrix products and convolutions at the rate of a large matrix product of the same precision, and the bytes
that its operations read and write at the rate of a large copy. Both rates are measured first. A compiled call does the arithmetic of the
eager one with fewer bytes, and is compared with the eager one's roofline.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from frame import SamTimingOptions, Table, publish
from maskwright.data.augment import strong_view
from maskwright.data.labels import Kind
from maskwright.data.scene_dataset import write_scenes
from maskwright.data.scenes import render
from maskwright.engine.precision import Precision
from maskwright.engine.session import Session
from maskwright.methods.in_context.streams import Stream
from maskwright.recipes.samix.config import Config as Samix
from maskwright.recipes.samix.trainer import Trainer
from maskwright.rl.bank import Bank
from maskwright.rl.envs import GRID, ClickEnvSettings, ClickVectorEnv
from measure import load_sam, median_seconds

TRAINING_IMAGES = 24


@dataclass(kw_only=True)
class Config(SamTimingOptions):
    """Images per second of training and prediction, and clicks per second."""

    device: str = "auto"
    """`auto`: a GPU if there is one."""
    precisions: tuple[Literal["float32", "bf16"], ...] = ("float32", "bf16")
    ways: tuple[Literal["eager", "compiled"], ...] = ("eager", "compiled")
    batch: int = 32
    """Images per step."""
    environments: int = 128
    """Click environments in a batch."""
    clicks: int = 5
    """Clicks of an episode."""


@dataclass(frozen=True)
class Work:
    """One thing that is measured.

    Attributes:
        call: does it once.
        count: images or clicks of a call.
    """

    call: Callable[[], object]
    count: float


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that operations read and write; views cost nothing."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [value for value in tree_leaves((args, kwargs, found)) if isinstance(value, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return found


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_of(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    def whole() -> None:
        call()
        wait(device)

    wait(device)
    return median_seconds(whole, repeats)


def rates(device: torch.device, repeats: int) -> dict[str, float]:
    """Operations per second of a large matrix product in each precision, and bytes per second of a large copy."""
    side = 8192 if device.type == "cuda" else 1024
    found = {}
    for name, dtype in {"float32": torch.float32, "bf16": torch.bfloat16}.items():
        a = torch.randn(side, side, device=device, dtype=dtype)
        found[name] = 2 * side**3 / seconds_of(lambda a=a: a @ a, device, repeats)
    long = torch.empty(side * side * 4, device=device)
    found["bytes"] = 2 * long.nbytes / seconds_of(long.clone, device, repeats)
    return found


def least_seconds(call: Callable[[], object], peak: dict[str, float], precision: str) -> dict[str, float]:
    """The arithmetic and the bytes of a call, and the least time that they can take."""
    with FlopCounterMode(display=False) as operations, _Traffic() as traffic:
        call()
    arithmetic = operations.get_total_flops()
    return {
        "operations": arithmetic,
        "bytes": traffic.bytes,
        "least_seconds": max(arithmetic / peak[precision], traffic.bytes / peak["bytes"]),
    }


def samix_works(config: Config, data: Path, precision: Any, way: str) -> tuple[dict[str, Work], torch.device]:
    """The steps of a training, and prediction with its segmenter."""
    settings = Samix(
        data=data,
        out=data.with_name("run"),
        sam="nano" if config.sam == "random" else config.sam,
        size=config.size or 256,
        batch=config.batch,
        steps=100,
        device=config.device,
        precision=precision,
        workers=0,
    )
    session = Session.open(settings, settings.settings())
    trainer = Trainer(settings, session)
    if way == "compiled":
        for module in (trainer.segmenter, trainer.teacher.model, *trainer.sam.networks()):
            module.compile()
    kinds = trainer.kinds.tolist()
    shown = [i for i, kind in enumerate(kinds) if kind in (Kind.MASK, Kind.BOX)]
    practised = trainer.loader.take([shown[i % len(shown)] for i in range(config.batch)]).to(session.device)
    batch = trainer.loader.take([i % len(kinds) for i in range(config.batch)]).to(session.device)
    optimizer = trainer.sam_optimizer
    assert optimizer is not None, "a training with weak labels adapts SAM"

    def warm_up() -> None:
        generator = session.generator(Stream.WARM_UP, 0)
        images = strong_view(practised.images, generator)
        practice = trainer.labeller.practice(practised, generator)
        loss = trainer.labeller.episode(trainer.sam.encode(images), practice, generator)
        session.descend(loss, optimizer, trainer.sam_parameters)

    def fit() -> None:
        trainer.sam_step(batch, 1.0)
        for _ in range(settings.sam_every):
            trainer.segmenter_step(batch, 1.0, 0.5)

    @torch.inference_mode()
    def predict() -> None:
        trainer.teacher.model(batch.images)

    warm_up()
    works = {
        "warm-up": Work(warm_up, config.batch),
        "fit": Work(fit, config.batch * settings.sam_every),
        "predict": Work(predict, config.batch),
    }
    return works, session.device


def click_work(config: Config, device: torch.device, precision: Any, way: str) -> Work:
    """One click in each of a batch of environments."""
    sam = load_sam(config.sam, config.size).to(device).requires_grad_(False)
    Precision(precision, device).lower(sam.networks())
    if way == "compiled":
        for module in sam.networks():
            module.compile()
    bank = Bank.of_scenes(sam, render(config.environments, sam.size, seed=0, difficulty=0.3))
    if len(bank) < config.environments:
        raise SystemExit(f"--environments {config.environments}: the scenes show {len(bank)} objects")
    env = ClickVectorEnv(sam, bank, config.environments, ClickEnvSettings(max_clicks=config.clicks, shuffle=False))
    shape = config.clicks, config.environments
    actions = np.random.default_rng(0).integers(0, 2 * GRID * GRID, shape)
    rows = {"rows": np.arange(config.environments)}

    def play() -> None:
        env.reset(seed=0, options=rows)
        for action in actions:
            env.step(action)

    return Work(play, config.environments * config.clicks)


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    rows, figures = [], []
    peak: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        data, size = Path(folder) / "data", config.size or 256
        shares = {Kind.MASK: 0.25, Kind.BOX: 0.25, Kind.POINT: 0.25, Kind.NONE: 0.25}
        write_scenes(data, train=TRAINING_IMAGES, val=2, test=1, size=size, categories=("disc",), shares=shares)
        for precision in config.precisions:
            least: dict[str, dict[str, float]] = {}
            for way in config.ways:
                works, device = samix_works(config, data, precision, way)
                works["clicks"] = click_work(config, device, precision, way)
                peak = peak or rates(device, config.repeats)
                for name, work in works.items():
                    if way == "eager" or name not in least:
                        least[name] = least_seconds(work.call, peak, precision)
                    began = time.perf_counter()
                    seconds = seconds_of(work.call, device, config.repeats)
                    share = least[name]["least_seconds"] / seconds
                    figures.append(
                        {"work": name, "precision": precision, "way": way, "per_second": work.count / seconds}
                        | {"seconds": seconds, "of_roofline": share, "all_calls": time.perf_counter() - began}
                        | least[name]
                    )
                    rows.append([name, precision, way, f"{work.count / seconds:.1f}", f"{share:.0%}"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    rate = f"{peak['float32'] / 1e12:.3g} and {peak['bf16'] / 1e12:.3g} TFLOP/s in float32 and bf16, {peak['bytes'] / 1e9:.3g} GB/s"
    table = Table(
        f"On {name}: SAM {config.sam} at {size} pixels, batches of {config.batch}, {config.environments} environments",
        ["work", "precision", "way", "images or clicks / s", "of the roofline"],
        sorted(rows),
        f"Matrix products reach {rate}.",
    )
    publish(config, table, config.settings(), device=name, peak=peak, rows=figures)


if __name__ == "__main__":
    main(tyro.cli(Config))
