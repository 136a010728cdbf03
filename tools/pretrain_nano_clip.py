"""Train the bundled CLIP ``nano-clip`` from scratch on procedural scenes, their names and attributes.

    python tools/pretrain_nano_clip.py --out runs/nano-clip --minutes 15
    python tools/pretrain_nano_clip.py --out runs/nano-clip --minutes 15 --resume        # continue a killed run

A CLIP learns from sentences about whole images, and needs hundreds of millions of them before its map finds anything. This one has
minutes, so it is also told where things are: (1) whole picture and sentence (class token), (2) object and sentence (tokens of CLIP
Surgery, averaged over the object), (3) each place and each word: names, colours, sizes, textures, "object"; the empty text stands for
places that have no such word, which is how a single text is asked for later. The averaged weights are written to ``OUT/model`` in float16.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerBase

from maskwright.data.scenes import render
from maskwright.engine.ema import Ema
from maskwright.engine.run import Run
from maskwright.engine.state import flatten_optimizer, unflatten_optimizer
from maskwright.engine.values import settings_of
from maskwright.nets.clip_surgery import MEAN, STD, ClipSurgery, similarities, surgery_tokens
from nano_clip_words import (
    ANYTHING,
    COLOURS,
    NAMES,
    PLURALS,
    SIZES,
    TEMPLATES,
    TEXTURES,
    Objects,
    caption,
    describe,
    look_at,
    make_tokenizer,
)
from nano_views import Pool, render_pool

PATCH, SIZE, NEAR = 8, 128, 48


@dataclass
class Config:
    out: Path
    """Run directory."""
    minutes: float = 15.0
    """Budget of the training itself in minutes of the processor, over all threads (rendering the pool is extra)."""
    scenes: int = 6400
    """Scenes rendered."""
    near_share: float = 0.7
    """First share of the budget, on crops of single objects at 48 pixels, every name as often as any other. The rest is at 128 pixels:
    whole scenes, and crops with their surroundings."""
    flat_share: float = 0.5
    """Share of the budget until which some crops are flat silhouettes: all at first, light on dark or dark on light, then fewer."""
    batch: int = 48
    """Views per step at 48 pixels, half as many at 128."""
    lr: float = 2e-3
    weight_decay: float = 0.05
    ema: float = 0.995
    seed: int = 0
    threads: int = 1
    resume: bool = False
    overwrite: bool = False


def nano_clip_config(tokenizer: PreTrainedTokenizerBase) -> CLIPConfig:
    """CLIP with patches of 8 pixels and six blocks, so that surgery runs along all of them."""
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4}
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 32,
            "projection_dim": 96,
            **special,
            **text,
        },
        vision_config={"image_size": SIZE, "patch_size": PATCH, "projection_dim": 96, **vision},
        projection_dim=96,
    )


def initialise(model: Any) -> CLIPModel:
    """Make a freshly built CLIP quick to train, in place.

    With ``transformers``' initialisation (for wide models and long training) all values are alike, so value-value attention looks at
    everything at once and the second stream sees nothing of its own place for hundreds of steps. Here values are large from the start.
    """
    for part, gain in ((model.vision_model, 1.3), (model.text_model, 1.0)):
        for block in part.encoder.layers:
            attention = block.self_attn
            nn.init.orthogonal_(attention.v_proj.weight, gain)
            nn.init.orthogonal_(attention.out_proj.weight, 0.4)
            for layer in (attention.q_proj, attention.k_proj, block.mlp.fc1, block.mlp.fc2):
                nn.init.xavier_uniform_(layer.weight)
    for layer in (model.visual_projection, model.text_projection):
        nn.init.xavier_uniform_(layer.weight)
    patches = model.vision_model.embeddings.patch_embedding.weight
    nn.init.normal_(patches, std=patches[0].numel() ** -0.5)
    embeddings = model.vision_model.embeddings
    with torch.no_grad():
        embeddings.position_embedding.weight[1:] = waves(embeddings.num_patches, embeddings.embed_dim)
    nn.init.normal_(model.text_model.embeddings.token_embedding.weight, std=0.3)
    return model


def waves(places: int, width: int) -> Tensor:
    """(places, width) codes of the places of a square grid: sines and cosines of x and y, none so fast that interpolation loses it."""
    side = round(places**0.5)
    cycles = 0.5 * 8.0 ** torch.linspace(0, 1, width // 4)  # per side: from half a wave to four
    phase = 2 * math.pi * (torch.arange(side) + 0.5)[:, None] / side * cycles
    line = torch.cat([phase.sin(), phase.cos()], 1)
    across, down = line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return torch.cat([across, down], 2).flatten(0, 1)


@dataclass(frozen=True)
class Cutouts:
    """All objects of a pool that are large enough to be recognised.

    Attributes:
        image: (K,) of each object, ascending; category: (K,); box: (K, 4) x0 y0 x1 y1 in -1..1.
    """

    image: Tensor
    category: Tensor
    box: Tensor

    @classmethod
    def of(cls, pool: Pool, smallest: float = 0.006) -> Cutouts:
        assert pool.categories is not None
        found = []
        for slot in range(pool.categories.shape[1]):
            for start in range(0, len(pool), 256):
                mask = pool.instances[start : start + 256] == slot + 1
                keep = mask.flatten(1).float().mean(1) > smallest
                rows, columns = mask[keep].any(2).float(), mask[keep].any(1).float()
                size = mask.shape[-1]
                low = torch.stack([columns.argmax(1), rows.argmax(1)], 1)
                high = size - torch.stack([columns.flip(1).argmax(1), rows.flip(1).argmax(1)], 1)
                image = keep.nonzero()[:, 0] + start
                found.append((image, pool.categories[image, slot], torch.cat([low, high], 1) * (2 / size) - 1))
        image, category, box = (torch.cat(parts) for parts in zip(*found))
        order = image.argsort(stable=True)
        return cls(image[order], category[order], box[order].float())

    def draw(self, count: int, reach: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Objects of the first ``reach`` images, every name as often as any other: their images (B,), and views (B, 2, 3) around them."""
        known = int((self.image < reach).sum())
        frequency = torch.bincount(self.category[:known], minlength=len(NAMES) + 1).float()
        weight = 1 / frequency[self.category[:known]]
        chosen = torch.multinomial(weight, count, replacement=True, generator=generator)
        box = self.box[chosen]

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator) * (high - low) + low

        half = (box[:, 2:] - box[:, :2]).amax(1) / 2
        radius = half * uniform(1.1, 2.2)
        centre = (box[:, 2:] + box[:, :2]) / 2 + uniform(-0.3, 0.3, 2) * half[:, None]
        angle = uniform(-math.pi, math.pi)
        mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        cos, sin = angle.cos() * radius, angle.sin() * radius
        turned = torch.stack([torch.stack([cos * mirror, -sin], 1), torch.stack([sin * mirror, cos], 1)], 1)
        return self.image[chosen], torch.cat([turned, centre[:, :, None]], 2)


def silhouettes(images: Tensor, ids: Tensor, colourful: float, generator: torch.Generator) -> Tensor:
    """Objects and ground in flat colours; black and white with ``colourful`` = 0, so that shape is all there is to learn.

    images (B,3,S,S) for the size, ids (B,S,S) → (B,3,S,S).
    """
    batch, slots = len(ids), int(ids.max()) + 1
    light = (torch.rand(batch, 1, 1, generator=generator) < 0.5).float()
    grey = torch.where(torch.arange(slots)[None, :, None] == 0, 1 - light, light).expand(-1, -1, 3)
    colours = torch.lerp(grey, torch.rand(batch, slots, 3, generator=generator), colourful)
    flat = colours.gather(1, ids.flatten(1)[..., None].expand(-1, -1, 3)).transpose(1, 2).reshape(images.shape)
    return (flat + 0.03 * torch.randn(flat.shape, generator=generator)).clamp(0, 1)


def views(images: Tensor, instances: Tensor, size: int, affines: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (B,3,s,s), (B,s,s) seen through (B,2,3) affines → float (B,3,S,S) in 0..1, int64 (B,S,S)."""
    grid = F.affine_grid(affines, [len(images), 3, size, size], align_corners=False)
    options: Any = {"padding_mode": "reflection", "align_corners": False}
    view = F.grid_sample(images.float() / 255, grid, mode="bilinear", **options)
    ids = F.grid_sample(instances.float()[:, None], grid, mode="nearest", **options)
    return view, ids[:, 0].round().long()


class Trainer:
    """Pool, network and optimiser of one training."""

    def __init__(self, config: Config) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.tokenizer = make_tokenizer()
        self.model: Any = initialise(CLIPModel(nano_clip_config(self.tokenizer))).train()
        self.ema = Ema(self.model, config.ema, warmup=20)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.lr,
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.pool = render_pool(config.scenes, SIZE, seed=config.seed)
        self.cutouts = Cutouts.of(self.pool)
        self.mean, self.std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]

    def losses(self, fraction: float) -> dict[str, Tensor]:
        """One batch of views and all three losses."""
        g, pool = self.generator, self.pool
        near = fraction < self.config.near_share
        size, batch = (NEAR, self.config.batch) if near else (SIZE, self.config.batch // 2)
        # The pool goes from plain to camouflaged scenes.
        index, affines = self.cutouts.draw(batch, int(len(pool) * min(1.0, 0.4 + 1.2 * fraction)), g)
        if not near:
            whole = torch.rand(batch, generator=g) < 0.5
            flip = torch.tensor([[1.0, 0, 0], [0, 1, 0]]) * torch.where(
                torch.rand(batch, 1, 1, generator=g) < 0.5, 1.0, -1.0
            )
            affines = torch.where(whole[:, None, None], flip, affines)
        images, ids = views(pool.images[index], pool.instances[index], size, affines)
        plain = torch.rand(batch, 1, 1, 1, generator=g) < 1 - fraction / self.config.flat_share
        images = torch.where(
            plain, silhouettes(images, ids, min(1.0, 2 * fraction / self.config.flat_share), g), images
        )
        objects = look_at(images, ids, pool.categories[index])
        tokens = F.normalize(surgery_tokens(self.model, (images - self.mean) / self.std), dim=-1)
        shares = F.avg_pool2d(F.one_hot(ids, objects.name.shape[1]).permute(0, 3, 1, 2).float(), PATCH)
        scale = self.model.logit_scale.exp().clamp(max=100)
        sentences = [caption(objects, row, g) for row in range(len(images))]
        return {
            "picture": contrast(tokens[:, 0], self.encode(sentences), sentences, scale),
            **self.object_losses(tokens[:, 1:], shares, objects, scale),
            **self.place_losses(tokens[:, 1:], shares, objects, scale),
        }

    def object_losses(
        self, tokens: Tensor, shares: Tensor, objects: Objects, scale: Tensor, most: int = 64
    ) -> dict[str, Tensor]:
        """Objects, as the mean of their places: which of the sentences is about them, and which name do they have?"""
        weight = shares.flatten(2)
        seen = ((objects.name >= 0) & (weight.amax(2) > 0.5)).nonzero()
        seen = seen[torch.randperm(len(seen), generator=self.generator)[:most]]
        pooled = F.normalize((weight @ tokens)[seen[:, 0], seen[:, 1]], dim=-1)
        sentences = [describe(objects, row, slot, self.generator) for row, slot in seen.tolist()]
        told = contrast(pooled, self.encode([self.template().format(s) for s in sentences]), sentences, scale)
        template, names = self.template(), objects.name[seen[:, 0], seen[:, 1]]
        codes = self.encode([template.format(name) for name in NAMES])
        return {"object": told, "named": F.cross_entropy(scale * pooled @ codes.T, names)}

    def place_losses(self, tokens: Tensor, shares: Tensor, objects: Objects, scale: Tensor) -> dict[str, Tensor]:
        """Which word does each place deserve? The last class is the empty text."""
        slot = shares.flatten(2).max(1)
        clear = slot.values > 0.6
        ground = clear & (slot.indices == 0)
        names = PLURALS if torch.rand((), generator=self.generator) < 0.2 else NAMES
        anything = ANYTHING[int(torch.randint(len(ANYTHING), (), generator=self.generator))]
        words = {
            "name": (names, objects.name),
            "colour": (COLOURS, objects.colour),
            "size": (SIZES, objects.size),
            "texture": (TEXTURES, objects.texture),
            "thing": ((anything,), torch.where(objects.name >= 0, 0, -1)),
        }
        # One sentence for all words of a step: each must do by itself, and their mean does better.
        template = self.template()
        codes = self.encode([template.format(word) for vocabulary, _ in words.values() for word in (*vocabulary, "")])
        losses = {}
        for (kind, (_, known)), code in zip(words.items(), codes.split([len(v) + 1 for v, _ in words.values()])):
            label = known.gather(1, slot.indices)
            here = clear & (label >= 0)
            logits = scale * (tokens @ code.T)
            entropy = F.cross_entropy(logits.transpose(1, 2), torch.where(here, label, len(code) - 1), reduction="none")
            losses[kind] = (entropy * here).sum() / here.sum().clamp(min=1) + (
                entropy * ground
            ).sum() / ground.sum().clamp(min=1)
        return losses

    def template(self) -> str:
        return TEMPLATES[int(torch.randint(len(TEMPLATES), (), generator=self.generator))]

    def encode(self, sentences: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(sentences), padding=True, return_tensors="pt")
        return F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)


WEIGHTS = {
    "picture": 0.2,
    "object": 0.3,
    "named": 1.0,
    "name": 1.0,
    "colour": 0.1,
    "size": 0.05,
    "texture": 0.05,
    "thing": 0.3,
}


def contrast(images: Tensor, texts: Tensor, sentences: Sequence[str], scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over the pairs of a batch; pairs with the same sentence count as right."""
    same = torch.tensor([[a == b for b in sentences] for a in sentences]).float()
    target, logits = same / same.sum(1, keepdim=True), scale * images @ texts.T
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


@torch.no_grad()
def pointing(clip: ClipSurgery, difficulty: float, count: int = 192, seed: int = 876_543) -> dict[str, float]:
    """Does the highest place of a name's map lie on such an object? On new scenes, for every name that fills 1 % of one.

    Returns ``alone``: asked by itself; ``among``: asked among all names; ``chance``: the mean share of the picture that it fills; and the
    same where at least two names are visible, with ``chance_object``: its share of all objects, what finding just any object would give.
    ``told_apart``: share of pairs of differently named objects in a scene where the name's map is higher on its own; .5 by chance.
    """
    hits: dict[str, list[float]] = {}
    texts, empty = clip.encode_sentences(NAMES), clip.encode_sentences([""])
    ranked: list[float] = []
    for start in range(0, count, 32):
        scenes = render(32, SIZE, seed=seed + start, difficulty=difficulty)
        tokens = clip.encode_images(scenes.images)
        maps = {"alone": similarities(tokens, texts, empty), "among": similarities(tokens, texts)}
        kinds = F.pad(scenes.categories, (1, 0)).gather(1, scenes.instances.flatten(1)).view_as(scenes.instances)
        truth = torch.stack([kinds == k + 1 for k in range(len(NAMES))], 1)
        share = truth.float().mean((2, 3))
        ranked += preferences(maps["alone"], scenes.instances, scenes.categories)
        asked = share >= 0.01
        several = asked & (asked.sum(1, keepdim=True) > 1)
        found = {"chance": share, "chance_object": share / share.sum(1, keepdim=True).clamp(min=1e-6)}
        for form, scores in maps.items():
            fine = F.interpolate(scores, SIZE, mode="bilinear", align_corners=False)
            found[form] = truth.flatten(2).gather(2, fine.flatten(2).argmax(-1)[..., None])[..., 0].float()
        for form, values in found.items():
            hits.setdefault(form, []).extend(values[asked].tolist())
            hits.setdefault(f"several_{form}", []).extend(values[several].tolist())
    return {name: float(np.mean(values)) for name, values in hits.items()} | {"told_apart": float(np.mean(ranked))}


def preferences(scores: Tensor, instances: Tensor, categories: Tensor) -> list[float]:
    """For two objects of different name in one scene, each at least 1 % of it: is the name's map higher on its own object? 1 or 0."""
    fine = F.interpolate(scores, SIZE, mode="bilinear", align_corners=False).flatten(2)
    masks = F.one_hot(instances, categories.shape[1] + 1)[..., 1:].flatten(1, 2).float()
    means = fine @ masks / masks.sum(1, keepdim=True).clamp(min=1)  # (B, names, objects)
    large = masks.mean(1) >= 0.01
    name = (categories - 1).clamp(min=0)
    own = means.gather(1, name[:, :, None].expand(-1, -1, means.shape[2]))  # the map of object i's name, on object j
    pairs = large[:, :, None] & large[:, None] & (categories[:, :, None] != categories[:, None])
    higher = own.diagonal(dim1=1, dim2=2)[:, :, None] > own
    return higher[pairs].float().tolist()


def export(trainer: Trainer, folder: Path) -> None:
    """The averaged weights in float16, tokenizer and sentences, in Hugging Face format."""
    model: Any = CLIPModel(nano_clip_config(trainer.tokenizer))
    model.load_state_dict(trainer.ema.model.state_dict())
    model.half().save_pretrained(folder)
    trainer.tokenizer.save_pretrained(folder)
    (folder / "templates.json").write_text(json.dumps(TEMPLATES, indent=2) + "\n")


def fit(trainer: Trainer, run: Run, config: Config) -> None:
    step, used = 0, 0.0
    checkpoint = run.load_checkpoint()
    if checkpoint is not None:
        trainer.model.load_state_dict(checkpoint.tensors["model"])
        trainer.ema.load_state_dict(checkpoint.tensors["ema"])
        unflatten_optimizer(trainer.optimizer, checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
        trainer.generator.set_state(checkpoint.tensors["rng"]["generator"])
        step, used = checkpoint.step, checkpoint.state["minutes"]
    means: dict[str, list[float]] = {}
    saved = time.monotonic()
    while used < config.minutes:
        tick = time.process_time()
        fraction = used / config.minutes
        rate = config.lr * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * (0.5 + 0.5 * float(np.cos(np.pi * fraction))))
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        losses = trainer.losses(fraction)
        trainer.optimizer.zero_grad(set_to_none=True)
        torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum().backward()
        nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.ema.update(trainer.model)
        for name, value in losses.items():
            means.setdefault(name, []).append(float(value.detach()))
        step += 1
        used += (time.process_time() - tick) / 60
        if step % 50 == 0:
            report = {k: float(np.mean(v)) for k, v in means.items()}
            run.log(step, minutes=used, lr=rate, **report)
            shown = "  ".join(f"{k} {v:.3f}" for k, v in report.items())
            print(f"{used:6.1f} min  step {step}  {shown}", flush=True)
            means.clear()
        if time.monotonic() - saved > 120 or used >= config.minutes:
            flat, state = flatten_optimizer(trainer.optimizer)
            run.save_checkpoint(
                step,
                {
                    "model": trainer.model.state_dict(),
                    "ema": trainer.ema.state_dict(),
                    "optimizer": flat,
                    "rng": {"generator": trainer.generator.get_state()},
                },
                {"optimizer": state, "minutes": used},
            )
            export(trainer, config.out / "model")
            scores = pointing(ClipSurgery.load(config.out / "model"), 0.5)
            run.log(step, **scores)
            print(f"           step {step}  " + "  ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)
            saved = time.monotonic()


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    settings = settings_of(config, "resume", "overwrite", "out")
    run = Run.create(config.out, settings, resume=config.resume, overwrite=config.overwrite)
    fit(Trainer(config), run, config)
    for difficulty in (0.3, 0.5, 1.0):
        scores = pointing(ClipSurgery.load(config.out / "model"), difficulty, 384)
        print(f"difficulty {difficulty}:  " + "  ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
