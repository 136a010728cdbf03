"""The training of ``nano``: its settings, and the three kinds of step (see ``pretrain_nano.py``)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.engine.devices import find_device
from maskwright.engine.ema import Ema
from maskwright.engine.files import disk, remove
from maskwright.engine.state import flatten_optimizer, unflatten_optimizer
from maskwright.engine.weights import load_state, load_tensors
from maskwright.sam.closer_look import ellipse_logits
from maskwright.sam.prompts import PADDING, Prompts
from maskwright.sam.sam import Embedding, Sam
from maskwright.sam.weights import nano_config
from nano_losses import balanced_entropy, mask_loss, mean_iou
from nano_sources import KINDS, Source
from nano_targets import boxes_of, choose_objects, cut, ghosts, join_touching, sample_in
from nano_views import develop, look, wide_views
from photo_packs import Pack, read_pack

NECK_DEVIATION = 0.5
"""Deviation of a new neck's output. Much louder than the position code (0.7), it would hide from the decoder where things are."""


@dataclass
class Config:
    out: Path
    """Run directory."""
    packs: list[Path] = field(default_factory=list)
    """Photographs with masks; those without masks fill collages only. A tenth of them is kept for validation."""
    init: Path | None = None
    """Start from these weights (a folder in Hugging Face format) instead of from new heads."""
    trunk: Path | None = None
    """Weights of the trunk alone (safetensors) for new heads to stand on."""
    ghost_steps: int = 500
    """Steps of the first part; 0 with --init."""
    steps: int = 6000
    """Steps of the rest, small and full canvas together."""
    small: int = 192
    """Side of the small canvas."""
    size: int = 256
    """Side of the full canvas."""
    small_share: float = 0.7
    """Share of the steps on the small canvas."""
    batch: int = 16
    """Images per step on the small canvas, half as many on the full one."""
    parts: int = 2
    """A step's images come in so many parts, each of another sort, whose gradients are averaged; both batches must divide by 4 of them."""
    objects: int = 4
    """Prompts per image."""
    lr: float = 6e-4
    trunk_rate: float = 0.3
    """Learning rate of the trunk as a share of that of the rest."""
    weight_decay: float = 0.05
    context_share: float = 0.22
    """Share of the steps that are episodes in context."""
    cut_share: float = 0.3
    """Share of the boxes that are about a piece of an object."""
    ellipse_share: float = 0.4
    """Share of the boxes that come with the ellipse inscribed in them as a mask prompt, as in a closer look."""
    ghost_share: float = 0.06
    """Share of the boxes that are about nothing in the picture: where nothing is to be seen, the answer is an ellipse."""
    scenes: int = 384
    """Scenes in memory; of them 32 are new every few steps."""
    beads: int = 240
    """Outlines of pictures with many small things."""
    ema: float = 0.998
    log_every: int = 100
    save_every: int = 200
    """A multiple of ``log_every``, so that a resumed run logs what one that was never stopped logs."""
    validate_every: int = 1000
    seed: int = 0
    device: str = "auto"
    threads: int = 2
    resume: bool = False
    overwrite: bool = False


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def table(self, steps: int) -> str:
        total = sum(self.seconds.values())
        rows = (f"{name} {spent / steps:.3f} s ({spent / total:.0%})" for name, spent in self.seconds.items())
        return f"{total / steps:.2f} s a step: " + ", ".join(rows)


class Trainer:
    """Network, optimiser and batches of one training, and its three kinds of step."""

    def __init__(self, config: Config) -> None:
        self.config, self.device = config, find_device(config.device)
        with self.device:
            self.sam = self._start()
            self.model: Any = self.sam.model
            self.ema = Ema(self.model, config.ema, warmup=1000)
            parts = [read_pack(path, KINDS).to(self.device).divided() for path in sorted(config.packs)]
            packs = [training for training, _ in parts]
            self.held_out = [validation for _, validation in parts if len(validation)]
            self.source = Source(packs, size=config.small, scenes=config.scenes, beads=config.beads, seed=config.seed)
            self.ghost_steps = 0 if config.init else config.ghost_steps
            self.bank = self._bank(packs) if self.ghost_steps else None
        self.optimizer = torch.optim.AdamW(self._groups(), lr=config.lr, betas=(0.9, 0.98))
        self.watch = Stopwatch(self.device)

    def _start(self) -> Sam:
        """The network to begin with, on the device. Convolutions are several times faster with channels last on a CPU."""
        if self.config.init:
            sam = Sam.load(self.config.init)
        else:
            sam = Sam.from_config(nano_config(), seed=self.config.seed)
            if self.config.trunk:
                load_state(sam.model.vision_encoder.backbone, load_tensors(self.config.trunk), self.config.trunk)
        model = sam.model.to(self.device).to(memory_format=torch.channels_last)
        return Sam(model, self.config.small)

    def _bank(self, packs: list[Pack]) -> Embedding:
        """Embeddings of some pictures for the ghosts; a new neck that is too loud is turned down first."""
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        self.source.begin(0, 0)
        pictures = [self.source.draw(16, self.config.small)[0]]
        for pack in packs:
            rows = torch.randint(len(pack), (24,), generator=generator)
            views = wide_views(24, (0.4, 1.1), 0.3, generator)
            picture, _ = look(pack.images[rows], pack.ids[rows].long(), self.config.small, views, generator)
            pictures.append(develop(picture, generator))
        images = torch.cat(pictures)
        with torch.no_grad():
            loud = float(self.sam.encode(images[:32]).low.std())
            if loud > 2 * NECK_DEVIATION:
                for parameter in self.model.vision_encoder.neck.parameters():
                    parameter.mul_(NECK_DEVIATION / loud)
                self.ema.copy_from(self.model)
            return Embedding.cat([self.sam.encode(images[at : at + 32]) for at in range(0, len(images), 32)])

    def _groups(self) -> list[dict[str, Any]]:
        """Trunk and the rest, each with weights that decay and without."""
        groups = []
        for inside, decay, rate in ((True, 0.4, self.config.trunk_rate), (False, 1.0, 1.0)):
            named = [p for name, p in self.model.named_parameters() if ("vision_encoder.backbone" in name) == inside]
            for matrices in (True, False):
                parameters = [p for p in named if (p.ndim > 1) == matrices]
                weight_decay = decay * self.config.weight_decay * matrices
                groups.append({"params": parameters, "weight_decay": weight_decay, "rate": rate})
        return groups

    @property
    def total(self) -> int:
        return self.ghost_steps + self.config.steps

    def canvas(self, size: int) -> Sam:
        """The network, and its average, set up for a canvas: the rotary positions of the memory attention belong to one."""
        if self.sam.size != size:
            self.sam = Sam(self.model, size)
            Sam(self.ema.model, size)
        return self.sam.train()

    def _autocast(self) -> torch.autocast:
        """bfloat16 on a GPU. On a CPU it is several times slower than float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def step(self, step: int) -> dict[str, Tensor]:
        """One step of the optimiser; returns what is to be logged."""
        on_ghosts = step < self.ghost_steps
        fraction = step / self.ghost_steps if on_ghosts else (step - self.ghost_steps) / self.config.steps
        self._prepare(step, on_ghosts, fraction)
        self.optimizer.zero_grad(set_to_none=True)
        reports: dict[str, list[Tensor]] = {}
        for part in range(self.config.parts):
            with self.device, self._autocast():
                losses = self._part(step, part, on_ghosts, fraction)
            with self.watch("backward"):
                (losses["loss"] / self.config.parts).backward()
            for name, value in losses.items():
                reports.setdefault(name, []).append(value.detach())
        with self.watch("optimiser"):
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            self.ema.update(self.model)
        return {name: torch.stack(values).nanmean() for name, values in reports.items()}

    def _prepare(self, step: int, on_ghosts: bool, fraction: float) -> None:
        """Learning rate, and which weights are trained: of ghosts, prompt encoder and decoder but for its view of the image."""
        of_stage = step if on_ghosts else step - self.ghost_steps
        rate = (
            self.config.lr * min(1.0, (of_stage + 1) / 60) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * fraction)))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        heads = ("prompt_encoder.", "mask_decoder.")
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not on_ghosts or (name.startswith(heads) and ".conv_s" not in name))

    def _part(self, step: int, part: int, on_ghosts: bool, fraction: float) -> dict[str, Tensor]:
        """The losses of one part. Of one step, all parts ask in the same way, of different pictures."""
        config, source = self.config, self.source
        small = on_ghosts or fraction < config.small_share
        sam = self.canvas(config.small if small else config.size)
        batch = config.batch // (1 if small else 2) // config.parts
        source.begin(step, 0)
        context, click, dice = source.chance() < config.context_share, source.chance() < 0.48, source.chance()
        rounds = count_rounds(click, fraction, dice, source.below(3))
        with self.watch("pictures"):
            source.begin(step, part + 1)
        if on_ghosts:
            return self._ghost_step(sam, batch, click, 1 + source.below(3), fraction)
        if context:
            return self._context_step(sam, batch)
        return self._prompt_step(sam, batch, click, rounds)

    def _ghost_step(self, sam: Sam, batch: int, click: bool, rounds: int, fraction: float) -> dict[str, Tensor]:
        assert self.bank is not None
        g, objects = self.source.generator, self.config.objects
        embedding = self.bank[torch.randint(len(self.bank), (batch,), generator=g)]
        targets = ghosts(batch, objects, sam.size, g)
        valid = targets.flatten(2).sum(-1) >= 12
        return self._interact(sam, embedding, targets, valid, click, rounds, max(0.0, 1 - 2 * fraction), "ghost")

    def _prompt_step(self, sam: Sam, batch: int, click: bool, rounds: int) -> dict[str, Tensor]:
        """Boxes or clicks about objects and parts, then corrections."""
        config, g = self.config, self.source.generator
        with self.watch("pictures"):
            images, ids, name = self.source.draw(batch, sam.size)
            targets, valid = choose_objects(ids, config.objects, g)
            if name != "parts":
                targets = join_touching(ids, targets, 0.05 if click else 0.1, g)
                targets = cut(images, targets, config.cut_share * (0.7 if click else 1.0), g)
            if not click:
                shapes = ghosts(batch, config.objects, sam.size, g)
                instead = torch.rand(valid.shape, generator=g) < config.ghost_share
                targets = torch.where(instead[..., None, None], shapes, targets)
                valid = (valid | instead) & (targets.flatten(2).sum(-1) >= 12)
        with self.watch("encode"):
            embedding = sam.encode(images)
        return self._interact(sam, embedding, targets, valid, click, rounds, 0.0, name)

    def _interact(
        self,
        sam: Sam,
        embedding: Embedding,
        targets: Tensor,
        valid: Tensor,
        click: bool,
        rounds: int,
        balance: float,
        name: str,
    ) -> dict[str, Tensor]:
        """A box or a click for each target, then clicks inside the error, each with the answer before. Some boxes come
        with an ellipse.

        ``balance`` is the share of ``balanced_entropy`` in the loss.
        """
        g, size = self.source.generator, sam.size
        previous, total, report = None, torch.zeros(()), {}
        if click:
            place = sample_in(targets, g)
            prompts = Prompts.of_points(place[:, :, None], torch.ones(*targets.shape[:2], 1, dtype=torch.long))
        else:
            boxes = boxes_of(targets, g)
            prompts = Prompts.of_boxes(boxes)
            if self.source.chance() < self.config.ellipse_share:
                previous = ellipse_logits(boxes, size)
        for turn in range(rounds):
            with self.watch("decode"):
                masks = sam.decode(embedding, prompts, previous, multimask=click and turn == 0)
                loss = mask_loss(masks, targets, valid)
                if balance:
                    loss = (1 - balance) * loss + balance * balanced_entropy(masks, targets, valid)
            total = total + loss
            previous = masks.best.detach().float()
            if turn == 0:
                report[f"{'click' if click else 'box'}/{name}"] = mean_iou(previous, targets, valid)
            if turn + 1 < rounds:
                answer = F.interpolate(previous, size, mode="bilinear", align_corners=False) > 0
                prompts = prompts.join(self._correction(answer, targets))
        if rounds > 3 and previous is not None:
            report["late"] = mean_iou(previous, targets, valid)
        return report | {"loss": total / rounds}

    def _correction(self, answer: Tensor, targets: Tensor) -> Prompts:
        """A click inside each error (B,K,S,S); none where nothing is wrong."""
        wrong = answer != targets
        place = sample_in(wrong, self.source.generator, central=0.65)
        pixel = (place[..., 1].long() * targets.shape[-1] + place[..., 0].long())[..., None]
        label = torch.where(wrong.flatten(2).any(2, keepdim=True), targets.flatten(2).gather(2, pixel).long(), PADDING)
        return Prompts.of_points(place[:, :, None], label)

    def _context_step(self, sam: Sam, batch: int) -> dict[str, Tensor]:
        """References with their masks segment the same thing in other images; sometimes it is not there."""
        with self.watch("pictures"):
            episode = self.source.episode(batch, sam.size)
        with self.watch("encode"):
            embedding = sam.encode(episode.images)
        with self.watch("decode"):
            memory = sam.remember(embedding, episode.reference[:, None].float())[:, 0][episode.order]
            has_reference = episode.reference.flatten(1).any(1)[episode.order].any(1)
            area = episode.query.flatten(1).float().mean(-1)
            present = ((area > 0.0015) & has_reference & ~episode.absent & episode.usable)[:, None]
            # Of a thing that shows hardly a pixel, nothing is said about its presence.
            sure = (has_reference & ((area > 0.0015) | (area == 0) | episode.absent) & episode.usable)[:, None]
            masks = sam.decode(sam.recall(embedding, memory))
            query = episode.query[:, None]
            entropy = F.binary_cross_entropy_with_logits(masks.presence.float(), present.float(), reduction="none")
            presence = (entropy * sure).sum() / sure.sum().clamp(min=1)
            loss = mask_loss(masks, query, present) + 0.2 * presence
        return {f"context/{episode.name}": mean_iou(masks.best.float(), query, present), "loss": loss}

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Tensors and JSON of a checkpoint."""
        tensors, optimizer = flatten_optimizer(self.optimizer)
        groups = {"model": self.model.state_dict(), "ema": self.ema.state_dict(), "optimizer": tensors}
        return groups, {"optimizer": optimizer}

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        load_state(self.model, tensors["model"], "checkpoint")
        self.ema.load_state_dict(tensors["ema"])
        unflatten_optimizer(self.optimizer, tensors["optimizer"], state["optimizer"])

    def export(self, folder: Path) -> None:
        """The averaged weights in float16, in Hugging Face format, in place of those that were there."""
        half = copy.deepcopy(self.ema.model).half().to("cpu", memory_format=torch.contiguous_format)
        Sam(half, self.config.size)
        aside = folder.with_name(f"{folder.name}.tmp-1")
        with disk(folder, "the model cannot be saved"):
            remove(aside)
            half.save_pretrained(aside)
            remove(folder)
            aside.rename(folder)


def count_rounds(click: bool, fraction: float, dice: float, more: int) -> int:
    """Answers asked for in one conversation; late in the training more often many. ``dice`` in 0..1, ``more`` in 0..2."""
    if click:
        return 4 + more if dice < 0.2 + 0.25 * fraction else 1 + more
    return 1 if dice < 0.6 - 0.2 * fraction else 2 + more
