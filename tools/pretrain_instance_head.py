"""Train the head that dense instance segmenters on the bundled SAM begin with, so that a user's short training need not start from nothing.

    python tools/pretrain_instance_head.py --packs packs/*.npz --out runs/head --steps 4000
    python tools/pretrain_instance_head.py --packs packs/*.npz --out runs/head --steps 4000 --resume     # continue a killed run

The image encoder stays as it is; pyramid and maps (``nets/dense_instances.py``) learn foreground and depth of all objects, whatever they
are, on the pictures that ``nano`` itself learnt from: photographs with masks, collages, scenes, and many small things in one picture.
A run is a function of its settings: a resumed one equals one that was never stopped. At the end the head is written in float16. Nothing
that results are measured on may be among the packs.

A step of 4 pictures takes .4 s of one core, of which drawing them is a third.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from maskwright.engine.budget import progress
from maskwright.engine.run import Run
from maskwright.engine.state import flatten_optimizer, unflatten_optimizer
from maskwright.engine.values import settings_of
from maskwright.engine.weights import load_state
from maskwright.errors import canvas_rule, require
from maskwright.methods.instances.dense_head import save_head
from maskwright.methods.instances.dense_loss import DenseLoss, targets
from maskwright.nets.dense_instances import create
from maskwright.sam.sam import Sam
from nano_sources import KINDS, Source
from photo_packs import read_pack, refuse_measured

CLIP = 1.0
"""Largest norm of the gradient."""


@dataclass
class Config:
    """Settings of the head's training."""

    out: Path
    """Run directory."""
    packs: list[Path] = field(default_factory=list)
    """Photographs with masks, see photo_packs.py; those without masks fill collages only."""
    sam: str = "nano"
    """SAM whose image encoder the head stands on."""
    head: Path | None = None
    """Where the head is written; left out, OUT/head.safetensors. The bundled one is methods/instances/nano_head.safetensors."""
    steps: int = 4000
    batch: int = 4
    size: int = 256
    """Side of the canvas."""
    lr: float = 2e-3
    weight_decay: float = 0.05
    scenes: int = 96
    """Scenes in memory."""
    scene_size: int = 192
    """Pixels along a side of a scene."""
    refresh: int = 20
    """Steps after which 32 of the scenes are new."""
    beads: int = 96
    """Outlines of pictures with many small things."""
    log_every: int = 50
    save_every: int = 200
    """A multiple of ``log_every``, so that a resumed run logs what one that was never stopped logs."""
    seed: int = 0
    threads: int = 2
    resume: bool = False
    overwrite: bool = False


class Trainer:
    """Head, optimiser and pictures of one training."""

    def __init__(self, config: Config) -> None:
        self.config = config
        packs = [read_pack(path, KINDS).divided()[0] for path in sorted(config.packs)]
        self.source = Source(
            packs,
            size=config.scene_size,
            scenes=config.scenes,
            beads=config.beads,
            seed=config.seed,
            refresh=config.refresh,
        )
        torch.manual_seed(config.seed)
        self.sam = Sam.load(config.sam).requires_grad_(False)
        self.network = create(self.sam, 2, config.size, 1.0)
        self.network.trunk.requires_grad_(False)
        head = [p for p in self.network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in head if (p.ndim > 1) == decays], "weight_decay": config.weight_decay * decays}
            for decays in (True, False)
        ]
        self.parameters, self.optimizer = head, torch.optim.AdamW(groups, lr=config.lr)
        self.loss = DenseLoss()

    def step(self, step: int) -> dict[str, Tensor]:
        """One step of the optimiser; returns the parts of the loss."""
        config = self.config
        rate = config.lr * min(1.0, (step + 1) / 20) * (1 - step / config.steps) ** 0.9
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, ids = self._pictures(step)
        categories = torch.ones(len(ids), max(1, int(ids.max())), dtype=torch.long)
        losses = self.loss(self.network(images), targets(ids, categories, torch.ones_like(ids, dtype=torch.bool), 2))
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _pictures(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) in 0..1 and ids (B, S, S). Pieces of objects, which only a prompt can mean, are drawn again."""
        part = 0
        while True:
            self.source.begin(step, part)
            images, ids, sort = self.source.draw(self.config.batch, self.config.size)
            if sort != "parts":
                return images, ids
            part += 1

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict]:
        """Tensors and JSON of a checkpoint."""
        tensors, optimizer = flatten_optimizer(self.optimizer)
        return {"network": self.network.state_dict(), "optimizer": tensors}, {"optimizer": optimizer}

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict) -> None:
        load_state(self.network, tensors["network"], "checkpoint")
        unflatten_optimizer(self.optimizer, tensors["optimizer"], state["optimizer"])


def main(config: Config) -> None:
    refuse_measured([path.stem for path in config.packs], "--packs")
    require(
        {
            **canvas_rule("size", config.size),
            f"--save-every {config.save_every}: must be a multiple of --log-every {config.log_every}": (
                config.log_every > 0 and config.save_every > 0 and config.save_every % config.log_every == 0
            ),
        }
    )
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    trainer = Trainer(config)
    settings = settings_of(config, "resume", "overwrite", "out", "threads", "head")
    with Run.create(config.out, settings, resume=config.resume, overwrite=config.overwrite) as run:
        checkpoint = run.load_checkpoint()
        if checkpoint is not None:
            trainer.load(checkpoint.tensors, checkpoint.state)
        first = checkpoint.step if checkpoint else 0
        sums: dict[str, Tensor] = {}
        with progress(config.steps - first, "head") as advance:
            for step in range(first, config.steps):
                for name, value in trainer.step(step).items():
                    sums[name] = sums.get(name, torch.zeros(())) + value
                done = step + 1
                advance(1)
                if done % config.log_every == 0:
                    run.log(done, **{name: float(value / config.log_every) for name, value in sums.items()})
                    sums.clear()
                if done % config.save_every == 0 or done == config.steps:
                    run.save_checkpoint(done, *trainer.state())
    head = config.head or config.out / "head.safetensors"
    save_head(trainer.network, trainer.sam, head)
    print(f"written: {head}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
