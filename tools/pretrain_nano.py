"""Train the bundled model ``nano`` from scratch on procedural scenes (and, if given, the train parts of ``nuclei`` and ``cats``).

    python tools/pretrain_nano.py --out runs/nano --minutes 60 --photos ../shared/data/cats ../shared/data/nuclei
    python tools/pretrain_nano.py --out runs/nano --minutes 60 --photos ... --resume        # continue a killed run

The curriculum, as shares of the time budget: the encoder alone on a dense pixel-pair loss (without it the decoder sits on a plateau
where it ignores its prompts), then boxes and clicks with corrections at 128 pixels, with in-context episodes (remember, recall) mixed in,
and the last part at 256 pixels. The averaged weights are written to ``OUT/model`` in float16.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from maskwright.data.scenes import render
from maskwright.engine.ema import Ema
from maskwright.engine.run import Run, settings_of
from maskwright.engine.state import flatten_optimizer, unflatten_optimizer
from maskwright.methods.zero_shot.prompted import ask_boxes, ask_clicks
from maskwright.nets.losses import sam_loss
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Masks, Sam
from maskwright.sam.weights import nano_config
from nano_views import (
    Pool,
    augment,
    boxes_of,
    choose_objects,
    collage,
    develop,
    photo_pool,
    relief,
    render_pool,
    sample_in,
)


@dataclass
class Config:
    out: Path
    """Run directory."""
    minutes: float = 60.0
    """Wall-clock budget of the training itself (rendering the pool is extra)."""
    photos: list[Path] = field(default_factory=list)
    """Dataset folders with instance masks whose train split is mixed in."""
    photo_share: float = 0.35
    """Share of the batches that are photographs."""
    collage_share: float = 0.5
    """Share of the other batches (in-context episodes left out) whose scenes are drawn anew with crops of the photographs."""
    relief_share: float = 0.35
    """Share of those that are reliefs: objects of the ground's own material. The rest are collages."""
    scenes: int = 12000
    """Scenes rendered for the 128-pixel part; a quarter as many at 256 pixels."""
    batch: int = 16
    """Images per step at 128 pixels; a third of it at 256."""
    objects: int = 4
    """Prompts per image."""
    lr: float = 8e-4
    weight_decay: float = 0.05
    dense_share: float = 0.08
    """Share of the budget for the dense pre-training of the encoder."""
    context_share: float = 0.35
    """Share of the steps (after the dense part) that are in-context episodes."""
    fine_share: float = 0.25
    """Last share of the budget, at 256 pixels."""
    ema: float = 0.998
    seed: int = 0
    threads: int = 2
    init: Path | None = None
    """Start from these weights (a folder in Hugging Face format) instead of from scratch; the dense part is then left out."""
    resume: bool = False
    overwrite: bool = False


class DenseHead(nn.Module):
    """Pixel embeddings from the three levels, for the dense pre-training only."""

    def __init__(self, width: int, dim: int = 32) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in (width // 8, width // 4, width))

    def forward(self, levels: list[Tensor]) -> Tensor:
        size = levels[0].shape[-2:]
        parts = [F.interpolate(p(x), size, mode="bilinear", align_corners=False) for p, x in zip(self.project, levels)]
        return F.normalize(torch.stack(parts).sum(0), dim=1)


def dense_loss(features: Tensor, ids: Tensor, generator: torch.Generator, pixels: int = 96) -> Tensor:
    """Pairs of pixels of one instance attract, others repel: balanced BCE on scaled cosines. features (B,D,h,w), ids (B,S,S)."""
    height, width = features.shape[-2:]
    small = F.interpolate(ids[:, None].float(), (height, width), mode="nearest")[:, 0].long().flatten(1)
    weight = torch.where(small > 0, 1.0, 0.3 * (small > 0).float().mean(1, keepdim=True).clamp(min=0.05))
    index = torch.multinomial(weight, pixels, generator=generator)
    picked = features.flatten(2).gather(2, index[:, None].expand(-1, features.shape[1], -1))
    label = small.gather(1, index)
    same = (label[:, :, None] == label[:, None, :]).float()
    keep = ((label[:, :, None] > 0) | (label[:, None, :] > 0)).float()
    logits = (picked.transpose(1, 2) @ picked) * 8 - 2
    loss = F.binary_cross_entropy_with_logits(logits, same, reduction="none") * keep
    positive = (loss * same).sum() / (same * keep).sum().clamp(min=1)
    return positive + (loss * (1 - same)).sum() / ((1 - same) * keep).sum().clamp(min=1)


def refine_loss(masks: Masks, targets: Tensor, valid: Tensor, balance: float) -> Tensor:
    """``sam_loss`` at twice the decoder's resolution, plus ``balance`` × cross-entropy with object and rest weighed alike.

    The second part keeps an untrained decoder from settling on "nothing" (or on the foreground): a prompt-blind answer costs log 2.
    """
    logits = F.interpolate(masks.logits.flatten(0, 1), scale_factor=2.0, mode="bilinear", align_corners=False)
    logits = logits.unflatten(0, targets.shape[:2])
    area = F.interpolate(targets.float(), logits.shape[-2:], mode="area")
    loss = sam_loss(logits, masks.iou, area, valid, alpha=0.5)
    if balance > 0:
        soft = area[:, :, None].expand_as(logits)
        entropy = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
        on = (entropy * soft).sum((-1, -2)) / soft.sum((-1, -2)).clamp(min=1e-3)
        off = (entropy * (1 - soft)).sum((-1, -2)) / (1 - soft).sum((-1, -2)).clamp(min=1e-3)
        best = (on + off).amin(-1)
        loss = (1 - balance) * loss + balance * (best * valid).sum() / valid.sum().clamp(min=1)
        loss = loss + 2 * balance * contrast_loss(logits.mean(2), area, valid)
    return loss


def contrast_loss(logits: Tensor, area: Tensor, valid: Tensor) -> Tensor:
    """Which of an image's prompts does a pixel belong to? Cross-entropy over the K prompts, on pixels of exactly one target.

    A decoder that ignores its prompts gives K equal answers and pays log K, whatever it says about foreground.
    logits, area (B,K,h,w), valid (B,K).
    """
    hard = (area > 0.5) & valid[:, :, None, None]
    one = hard.sum(1) == 1
    entropy = F.cross_entropy(
        logits.masked_fill(~valid[:, :, None, None], -30.0), hard.long().argmax(1), reduction="none"
    )
    per_object = (entropy[:, None] * hard * one[:, None]).sum((-1, -2)) / (hard & one[:, None]).sum((-1, -2)).clamp(
        min=1
    )
    counted = (hard & one[:, None]).flatten(2).any(-1) & (valid.sum(1, keepdim=True) > 1)
    return (per_object * counted).sum() / counted.sum().clamp(min=1)


class Trainer:
    """One training process: pools, networks, optimiser, and the two kinds of step."""

    def __init__(self, config: Config) -> None:
        self.config = config
        start = Sam.load(config.init) if config.init else Sam.from_config(nano_config(), seed=config.seed)
        if config.init:
            config.dense_share = 0.0
        self.coarse = Sam(start.model, 128)
        self.fine = Sam(self.coarse.model, 256)
        self.head = DenseHead(self.coarse.width)
        self.sam(128)
        self.ema = Ema(self.coarse.model, config.ema, warmup=1000)
        decay = [p for p in self.coarse.model.parameters() if p.ndim > 1]
        plain = [p for p in self.coarse.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
                {"params": list(self.head.parameters()), "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=(0.9, 0.98),
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.photos = [photo_pool(folder) for folder in config.photos]
        self.pools: dict[int, Pool] = {}

    def pool(self, size: int) -> Pool:
        if size not in self.pools:
            self.pools.clear()
            count = self.config.scenes if size == 128 else self.config.scenes // 4
            self.pools[size] = render_pool(count, size, seed=self.config.seed + size * 1_000_000)
        return self.pools[size]

    def sam(self, size: int) -> Sam:
        """The network set up for a canvas (the rotary positions of the memory attention belong to one)."""
        sam = self.coarse if size == 128 else self.fine
        grid = size // 16
        attention = sam.model.memory_attention
        attention.config.memory_attention_rope_feat_sizes = [grid, grid]
        attention.position_ids = attention.precompute_positions(attention.config)
        return sam.train()

    def draw(self, size: int, batch: int, pairs: bool, fraction: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """A batch of one source: images, ids and (scenes only) identities; with ``pairs`` rows 2i and 2i+1 belong together."""
        g = self.generator
        # Photographs show one or two objects at a time, on which a prompt-blind answer does well: scenes first.
        real = bool(self.photos) and (fraction > 0.3 or self.config.init is not None)
        photo = real and torch.rand((), generator=g).item() < self.config.photo_share
        pool = self.photos[int(torch.randint(len(self.photos), (), generator=g))] if photo else self.pool(size)
        reach = len(pool) if photo else int(len(pool) * min(1.0, 0.4 + 2 * fraction))
        if pairs and not photo:
            index = torch.randint(reach // 2, (batch // 2,), generator=g)
            index = torch.stack([2 * index, 2 * index + 1], 1).flatten()
        else:
            index = torch.randint(reach, (batch,), generator=g)
        zoom = (0.3, 1.0) if photo else (0.45, 1.0)
        images, ids = augment(pool.images[index], pool.instances[index], size, zoom, g)
        if real and not photo and not pairs and torch.rand((), generator=g).item() < self.config.collage_share:
            crops = self.photos[int(torch.randint(len(self.photos), (), generator=g))].images
            if torch.rand((), generator=g).item() < self.config.relief_share:
                images = relief(ids, crops[torch.randint(len(crops), (batch,), generator=g)], g)
            else:
                images = collage(images, ids, crops[torch.randint(len(crops), (12,), generator=g)], g)
        return develop(images, g), ids, None if pool.identities is None else pool.identities[index]

    def dense_step(self, size: int) -> dict[str, Tensor]:
        images, ids, _ = self.draw(size, self.config.batch, False, 0.0)
        embedding = self.sam(size).encode(images)
        features = self.head([embedding.high0, embedding.high1, embedding.low])
        return {"dense": dense_loss(features, ids, self.generator)}

    def balance(self, fraction: float) -> float:
        """Weight of the balanced cross-entropy: all of the loss at first, gone at a third of the budget."""
        if self.config.init:
            return 0.0
        return max(0.0, 1 - (fraction - self.config.dense_share) / 0.27)

    def prompt_step(self, size: int, batch: int, fraction: float) -> dict[str, Tensor]:
        """A box or a click, then corrections inside the error, each with the previous logits."""
        g = self.generator
        images, ids, _ = self.draw(size, batch, False, fraction)
        targets, _, valid = choose_objects(ids, self.config.objects, g)
        valid = valid & targets.flatten(2).any(-1)
        sam = self.sam(size)
        embedding = sam.encode(images)
        # Boxes first, then clicks and corrections.
        later = fraction > self.config.dense_share + 0.06
        click = later and torch.rand((), generator=g).item() < 0.5
        previous = None
        if click:
            prompts = Prompts.of_points(
                sample_in(targets, g)[:, :, None], torch.ones(*targets.shape[:2], 1, dtype=torch.long)
            )
        else:
            prompts = Prompts.of_boxes(boxes_of(targets, g))
        losses: dict[str, Tensor] = {}
        # As many as seven corrections (SAM 2, appendix), mostly few: each costs a decode.
        chances = torch.tensor([0.4, 0.2, 0.15, 0.1, 0.06, 0.04, 0.03, 0.02])
        rounds = 1 + int(torch.multinomial(chances, 1, generator=g)) if later else 1
        total = 0.0
        for turn in range(rounds):
            masks = sam.decode(embedding, prompts, previous, multimask=click and turn == 0)
            loss = refine_loss(masks, targets, valid, self.balance(fraction))
            total = total + loss
            if turn == 0:
                losses["click" if click else "box"] = loss.detach()
                small = F.interpolate(targets.float(), masks.logits.shape[-2:], mode="area") > 0.5
                inter = ((masks.best > 0) & small).sum((-1, -2)).float()
                union = ((masks.best > 0) | small).sum((-1, -2)).float().clamp(min=1)
                losses["iou_click" if click else "iou_box"] = (inter / union)[valid].mean().detach()
            if turn + 1 < rounds:
                previous = masks.best.detach()
                answer = F.interpolate(previous, size, mode="bilinear", align_corners=False) > 0
                place = sample_in(answer != targets, g)
                column = place.long()
                label = targets.flatten(2).gather(2, (column[..., 1] * size + column[..., 0])[..., None])[..., 0]
                prompts = prompts.join(Prompts.of_points(place[:, :, None], label[..., None].long()))
        losses["loss"] = total / rounds
        return losses

    def context_step(self, size: int, batch: int, fraction: float) -> dict[str, Tensor]:
        """A reference with its mask (or a box's answer) segments the same thing in another image; sometimes it is absent."""
        g = self.generator
        batch += batch % 2
        images, ids, identities = self.draw(size, batch, True, fraction)
        sam = self.sam(size)
        embedding = sam.encode(images)
        partner = torch.arange(batch) ^ 1
        if identities is None:
            # Photographs: all instances of the set are one category; up to three other images of the batch are the references.
            references = int(torch.randint(1, 4, (), generator=g))
            order = torch.stack([(torch.arange(batch) + 1 + r) % batch for r in range(references)], 1)
            query = reference = (ids > 0)[:, None]
        else:
            shared = (identities[:, :, None] == identities[partner][:, None, :]) & (identities[:, :, None] > 0)
            pixels = torch.ones(batch, ids.shape[1] * ids.shape[2])
            area = torch.zeros(batch, identities.shape[1] + 1).scatter_add_(1, ids.flatten(1), pixels)[:, 1:]
            seen = (shared & (area[partner][:, None] > 0.002 * size * size)).any(2)
            # An identity that its partner does not show comes now and then: the answer is then "absent".
            weight = seen * area + 1e-3 * area + 1e-6
            identity = identities.gather(1, torch.multinomial(weight, 1, generator=g))
            query = self._identity_mask(ids, identities, identity)[:, None]
            reference = self._identity_mask(ids, identities, identity[partner])[:, None]
            order = partner[:, None]
        # Each image is remembered once, however many queries refer to it.
        memory = sam.remember(embedding, reference.float())[:, 0][order]
        has_reference = reference.flatten(1).any(1)[order].any(1, keepdim=True)
        area = query.flatten(2).float().mean(-1)
        present = (area > 0.002) & has_reference
        masks = sam.decode(sam.recall(embedding, memory), multimask=False)
        loss = refine_loss(masks, query, present, self.balance(fraction))
        known = has_reference & ((area > 0.002) | (area == 0))
        presence = F.binary_cross_entropy_with_logits(masks.presence, present.float(), reduction="none")
        presence = (presence * known).sum() / known.sum().clamp(min=1)
        small = F.interpolate(query.float(), masks.logits.shape[-2:], mode="area") > 0.5
        inter = ((masks.best > 0) & small).sum((-1, -2)).float()
        union = ((masks.best > 0) | small).sum((-1, -2)).float().clamp(min=1)
        kind = "photo" if identities is None else "scene"
        return {
            "loss": loss + 0.2 * presence,
            "context": loss.detach(),
            f"iou_context_{kind}": (inter / union)[present].mean().detach(),
        }

    @staticmethod
    def _identity_mask(ids: Tensor, identities: Tensor, identity: Tensor) -> Tensor:
        """(B,S,S) bool: pixels of all instances with the given identity (B,1)."""
        table = F.pad((identities == identity) & (identity > 0), (1, 0))
        return table.gather(1, ids.flatten(1)).view_as(ids)


@torch.no_grad()
def validate(sam: Sam, size: int, count: int = 128, seed: int = 987_654) -> dict[str, float]:
    """Mean IoU on held-out scenes: the exact box, and one and three clicks of the oracle."""
    sam.eval()
    g = torch.Generator().manual_seed(seed)
    sums: dict[str, list[Tensor]] = {"val_box": [], "val_click1": [], "val_click3": []}
    for i in range(0, count, 16):
        scenes = render(16, size, seed=seed + i, pairs=False)
        targets, _, valid = choose_objects(scenes.instances.long(), 3, g)
        image, place = (valid & targets.flatten(2).any(-1)).nonzero(as_tuple=True)
        truths, embedding = targets[image, place], sam.encode(scenes.images)[image]
        known = torch.ones_like(truths)
        sums["val_box"].append(ask_boxes(sam, embedding, truths, known).iou)
        clicks = ask_clicks(sam, embedding, truths, known, clicks=3).iou
        sums["val_click1"].append(clicks[:, 0])
        sums["val_click3"].append(clicks[:, 2])
    return {k: torch.cat(v).mean().item() for k, v in sums.items()}


def fit(trainer: Trainer, run: Run, config: Config) -> None:
    step, used = 0, 0.0
    checkpoint = run.load_checkpoint()
    if checkpoint is not None:
        trainer.coarse.model.load_state_dict(checkpoint.tensors["model"])
        trainer.head.load_state_dict(checkpoint.tensors["head"])
        trainer.ema.load_state_dict(checkpoint.tensors["ema"])
        unflatten_optimizer(trainer.optimizer, checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
        trainer.generator.set_state(checkpoint.tensors["rng"]["generator"])
        step, used = checkpoint.step, checkpoint.state["minutes"]
    model = trainer.coarse.model
    means: dict[str, list[float]] = {}
    saved = validated = time.monotonic()
    while used < config.minutes:
        tick = time.monotonic()
        fraction = used / config.minutes
        size = 256 if fraction >= 1 - config.fine_share else 128
        if size not in trainer.pools:
            trainer.pool(size)
            tick = time.monotonic()
        batch = config.batch if size == 128 else max(2, config.batch // 3)
        ramp = min(1.0, (step + 1) / 200)
        rate = config.lr * ramp * (0.02 + 0.98 * (0.5 + 0.5 * float(np.cos(np.pi * fraction))))
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        if fraction < config.dense_share:
            losses = trainer.dense_step(128)
            losses["loss"] = losses["dense"]
        elif (
            torch.rand((), generator=trainer.generator).item() < config.context_share
            and fraction > config.dense_share + 0.15
        ):
            losses = trainer.context_step(size, batch, fraction)
        else:
            losses = trainer.prompt_step(size, batch, fraction)
        loss = losses.pop("loss")
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *trainer.head.parameters()], 1.0)
        trainer.optimizer.step()
        trainer.sam(128)  # the averaged copy was made for this canvas
        trainer.ema.update(model)
        for name, value in losses.items():
            means.setdefault(name, []).append(float(value.detach()))
        step += 1
        used += (time.monotonic() - tick) / 60
        if step % 100 == 0:
            report = {k: float(np.nanmean(v)) for k, v in means.items()}
            run.log(step, minutes=used, lr=rate, **report)
            print(
                f"{used:6.1f} min  step {step}  {size}px  "
                + "  ".join(f"{k} {v:.3f}" for k, v in sorted(report.items())),
                flush=True,
            )
            means.clear()
        if time.monotonic() - saved > 150 or used >= config.minutes:
            run.save_checkpoint(
                step,
                {
                    "model": model.state_dict(),
                    "head": trainer.head.state_dict(),
                    "ema": trainer.ema.state_dict(),
                    "optimizer": (flat := flatten_optimizer(trainer.optimizer))[0],
                    "rng": {"generator": trainer.generator.get_state()},
                },
                {"optimizer": flat[1], "minutes": used},
            )
            export(trainer, config.out / "model")
            saved = time.monotonic()
            # Held-out scenes cost more than a checkpoint.
            if time.monotonic() - validated > 600 or used >= config.minutes:
                scores = validate(Sam(Sam.load(config.out / "model").model, size), size)
                run.log(step, **scores)
                print(f"           step {step}  " + "  ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)
                validated = time.monotonic()


def export(trainer: Trainer, folder: Path) -> None:
    """The averaged weights in float16, in Hugging Face format."""
    sam = Sam.from_config(nano_config())
    sam.model.load_state_dict(trainer.ema.model.state_dict())
    sam.model.half().save_pretrained(folder)


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    settings = settings_of(config, "resume", "overwrite", "out")
    # Before a run is made, or deleted: what it starts from may not be there.
    trainer = Trainer(config)
    fit(trainer, Run.create(config.out, settings, resume=config.resume, overwrite=config.overwrite), config)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
