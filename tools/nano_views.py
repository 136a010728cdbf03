"""What ``pretrain_nano.py`` looks at: pools of pictures with instance ids, their random views, and the prompts drawn on them.

Four kinds of picture: procedural scenes, photographs with instance masks, collages, which keep a scene's outlines but fill
them (and the ground behind) with crops of the photographs, and reliefs, whose objects are of the ground's own material. Collages
are there because a small model trained on scenes alone takes every inner edge and every highlight of a photograph for a border; in
a collage the inside of an object is as restless as in life. Reliefs are there because such a model tells objects by colour alone: a
click on a polyp then means all of the mucosa.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.data.scenes import render
from maskwright.data.shapes import tight_boxes
from maskwright.engine.budget import progress


@dataclass
class Pool:
    """Images with instance ids, in memory: images (N,3,S,S) uint8, instances (N,S,S) int16, identities (N,M) int64 or None.

    With identities, images 2i and 2i+1 show some of the same objects; without, all instances of the pool are one category.
    ``categories`` (N,M) int64 names the shape of each instance (see ``scenes.CATEGORY_NAMES``), of scenes only.
    """

    images: Tensor
    instances: Tensor
    identities: Tensor | None
    categories: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


def render_pool(count: int, size: int, seed: int, device: str = "cpu") -> Pool:
    """Scenes from plain to camouflaged: the first ones get the decoder off its plateau, the last carry over to photographs."""
    images, instances, identities, categories = [], [], [], []
    chunk = 32 if size <= 128 else 8
    with progress(count, f"rendering {size}-pixel scenes") as advance:
        for i in range(0, count, chunk):
            scenes = render(chunk, size, seed=seed + i, pairs=True, device=device, difficulty=0.1 + 0.9 * i / count)
            images.append((scenes.images * 255).round().byte())
            instances.append(scenes.instances.to(torch.int16))
            identities.append(scenes.identities)
            categories.append(scenes.categories)
            advance(chunk)
    return Pool(torch.cat(images), torch.cat(instances), torch.cat(identities), torch.cat(categories))


def photo_pool(folder: Path, size: int = 336) -> Pool:
    """The train split of a dataset with instance masks, squashed to squares (crops and jitter come later)."""
    dataset = Dataset.load(folder).split("train")
    images, instances = [], []
    for sample in dataset:
        mask_path = dataset.mask_path(sample)
        if mask_path is None:
            continue
        image = Image.open(dataset.image_path(sample)).convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
        mask = Image.fromarray(np.array(Image.open(mask_path)).astype(np.int32)).resize(
            (size, size), Image.Resampling.NEAREST
        )
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        instances.append(torch.from_numpy(np.array(mask).astype(np.int16)))
    return Pool(torch.stack(images), torch.stack(instances), None)


def augment(
    images: Tensor, instances: Tensor, size: int, zoom: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random crop, rotation and flip: uint8 (B,3,s,s), (B,s,s) → float (B,3,S,S) in 0..1, int64 (B,S,S)."""
    grid = F.affine_grid(_affines(len(images), zoom, generator), [len(images), 3, size, size], align_corners=False)
    view = F.grid_sample(images.float() / 255, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    ids = F.grid_sample(
        instances.float()[:, None], grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    return view, ids[:, 0].round().long()


def collage(images: Tensor, ids: Tensor, photos: Tensor, generator: torch.Generator, patched: float = 0.4) -> Tensor:
    """Fill most objects, and the ground of most pictures, with crops of photographs, each lit and tinted in its own way.

    images (B,3,S,S) in 0..1, ids (B,S,S), photos (K,3,s,s) uint8 → (B,3,S,S). Object 0 is the ground; now and then an object is
    cut from the ground's own photograph, so that it hides, and a share of ``patched`` shows two photographs in patches.
    """
    batch, size = len(images), images.shape[-1]
    slots = int(ids.max()) + 1

    def chance(share: float) -> Tensor:
        return torch.rand(batch, slots, generator=generator) < share

    per_pixel = partial(_per_pixel, ids)

    line = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    volume = (photos.float() / 255).transpose(0, 1)[None].expand(batch, -1, -1, -1, -1)

    def crops() -> Tensor:
        """One crop of a photograph behind each object: (B,3,S,S)."""
        source = torch.randint(len(photos), (batch, slots), generator=generator)
        source = torch.where(chance(0.2), source[:, :1], source).float()
        affine = per_pixel(_affines(batch * slots, (0.2, 0.8), generator).view(batch, slots, 2, 3))
        place = affine @ torch.stack([x, y, torch.ones_like(x)], -1)[None, ..., None]
        # Trilinear sampling in a volume of photographs: a whole number as the third coordinate picks one of them.
        depth = (per_pixel(source) + 0.5) * 2 / len(photos) - 1
        grid = torch.cat([place[..., 0], depth[..., None]], -1)[:, None]
        return F.grid_sample(volume, grid, mode="bilinear", padding_mode="reflection", align_corners=False)[:, :, 0]

    # An object in patches of two photographs is still one object: what looks different need not be another one.
    patches = torch.randn(batch, 1, 6, 6, generator=generator)
    patches = (F.interpolate(patches, size, mode="bicubic", align_corners=False) * 8).sigmoid()
    fill = torch.lerp(crops(), crops(), patches * per_pixel(chance(patched).float())[:, None])
    tint = 1 + torch.randn(batch, slots, 3, generator=generator) * 0.12
    tint = per_pixel(tint * (torch.randn(batch, slots, 1, generator=generator) * 0.25).exp()).permute(0, 3, 1, 2)
    slope = per_pixel(torch.randn(batch, slots, 2, generator=generator) * 0.2)
    fill = fill * tint * (1 + slope[..., 0] * x + slope[..., 1] * y)[:, None].clamp(0.3, 1.7)
    result = torch.where(per_pixel(chance(0.75))[:, None], fill, images).clamp(0, 1)
    # Cut edges are sharper than a lens draws them.
    soft = F.avg_pool2d(F.pad(result, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.lerp(result, soft, torch.rand(batch, 1, 1, 1, generator=generator))


def relief(ids: Tensor, photos: Tensor, generator: torch.Generator) -> Tensor:
    """Draw outlines as a relief: one material all over, from which objects stand out by light, a faint tint and soft edges.

    A polyp is a bump in the mucosa, an animal may wear the colours of its ground: what sets them apart is how the light falls on them.

    ids (B,S,S), photos (B,3,s,s) uint8 → (B,3,S,S) in 0..1.
    """
    batch, size = len(ids), ids.shape[-1]

    uniform = partial(_uniform, batch, generator)

    def blurred(maps: Tensor, radius: int) -> Tensor:
        wide, side = F.pad(maps, (radius,) * 4, mode="replicate"), 2 * radius + 1
        return F.avg_pool2d(F.avg_pool2d(wide, (1, side), stride=1), (side, 1), stride=1)

    def clouds(cells: int, channels: int) -> Tensor:
        noise = torch.randn(batch, channels, cells, cells, generator=generator)
        return F.interpolate(noise, size, mode="bicubic", align_corners=False)

    # So little of a photograph that nothing is to be recognised in it, or a colour with clouds; and fine veins.
    grid = F.affine_grid(_affines(batch, (0.05, 0.15), generator), [batch, 3, size, size], align_corners=False)
    crop = F.grid_sample(photos.float() / 255, grid, padding_mode="reflection", align_corners=False)
    plain = uniform(0.25, 0.9, 3, 1, 1) * (1 + 0.1 * clouds(4, 1) + 0.06 * clouds(16, 3) + 0.05 * clouds(64, 1))
    material = torch.lerp(plain, crop, uniform(0, 1, 1, 1, 1) * (uniform(0, 1, 1, 1, 1) < 0.7))
    veins = (1 - 12 * (clouds(9, 1) + 0.3 * clouds(32, 1)).abs()).clamp(min=0)
    material = material * (1 - uniform(0, 0.5, 1, 1, 1) * (uniform(0, 1, 1, 1, 1) < 0.4) * veins)
    line = torch.linspace(-1, 1, size)
    slope = uniform(-0.4, 0.4, 2, 1, 1)
    ground = material * (1 + slope[:, :1] * line + slope[:, 1:] * line[:, None])

    slots = int(ids.max()) + 1
    tint = torch.randn(batch, slots, 3, generator=generator) * 0.06
    tint = tint + torch.randn(batch, slots, 1, generator=generator) * 0.12
    tint = _per_pixel(ids, tint.exp()).permute(0, 3, 1, 2)
    tint = torch.lerp(tint, blurred(tint, size // 40), uniform(0, 1, 1, 1, 1))

    # Each object rises from its own border, also where it touches another.
    number = F.pad(ids[:, None].float(), (1,) * 4, mode="replicate")
    border = F.max_pool2d(number, 3, stride=1) + F.max_pool2d(-number, 3, stride=1) > 0
    inside = ((ids > 0)[:, None] & ~border).float()
    height = sum(blurred(inside, size // part) for part in (64, 16, 7)) / 3
    across = (height.roll(-1, 3) - height.roll(1, 3)) * size / 2
    down = (height.roll(-1, 2) - height.roll(1, 2)) * size / 2
    angle = uniform(0, 2 * torch.pi, 1, 1, 1)
    lit = 1 + uniform(0.01, 0.06, 1, 1, 1) * (angle.cos() * across + angle.sin() * down)
    # Little light reaches the crease around a bump.
    crease = 1 - uniform(0, 0.5, 1, 1, 1) * (blurred(border.float(), 2) * (1 - inside)).clamp(max=1)
    return (ground * tint * lit.clamp(0.4, 1.8) * crease).clamp(0, 1)


def develop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Photometric jitter, noise and, now and then, wet highlights: (B,3,S,S) in 0..1 → the same."""
    batch, size = len(images), images.shape[-1]

    uniform = partial(_uniform, batch, generator)

    mean = images.mean((2, 3), keepdim=True)
    grey = images.mean(1, keepdim=True)
    saturation = torch.where(torch.rand(batch, generator=generator) < 0.15, 0.0, 1.0)[:, None, None, None] * uniform(
        0.4, 1.6, 1, 1, 1
    )
    view = grey + (images - grey) * saturation
    view = mean + (view - mean) * uniform(0.5, 1.5, 1, 1, 1)
    view = view * uniform(0.75, 1.25, 3, 1, 1) + uniform(-0.15, 0.15, 1, 1, 1)
    glints = torch.randn(batch, 1, size // 8, size // 8, generator=generator)
    glints = F.interpolate(glints, size, mode="bicubic", align_corners=False) - uniform(1.5, 2.5, 1, 1, 1)
    some = torch.rand(batch, 1, 1, 1, generator=generator) < 0.3
    view = view + some * (glints.clamp(min=0) * 5).clamp(max=1)
    view = view.clamp(0, 1) ** uniform(-0.5, 0.5, 1, 1, 1).exp()
    view = view + torch.randn(view.shape, generator=generator) * uniform(0, 0.03, 1, 1, 1)
    return view.clamp(0, 1)


def _uniform(count: int, generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """(N, *shape) numbers between ``low`` and ``high``."""
    return torch.rand(count, *shape, generator=generator) * (high - low) + low


def _per_pixel(ids: Tensor, values: Tensor) -> Tensor:
    """(B,S,S), (B,M,...) → (B,S,S,...): what belongs to the object seen at each pixel."""
    flat = (ids + torch.arange(len(ids))[:, None, None] * values.shape[1]).flatten()
    return values.flatten(0, 1)[flat].view(*ids.shape, *values.shape[2:])


def _affines(count: int, zoom: tuple[float, float], generator: torch.Generator) -> Tensor:
    """(N,2,3): where a view's points, in -1..1, lie in the picture; ``zoom`` = share of the picture's side that the view spans."""

    uniform = partial(_uniform, count, generator)

    scale, aspect = uniform(*zoom), uniform(-0.2, 0.2).exp()
    angle = uniform(-0.35, 0.35) + torch.randint(0, 4, (count,), generator=generator) * torch.pi / 2
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)
    slack = (1 - scale).clamp(min=0)
    return torch.stack(
        [
            torch.stack(
                [scale * aspect * angle.cos() * flip, -scale / aspect * angle.sin(), uniform(-1, 1) * slack], -1
            ),
            torch.stack(
                [scale * aspect * angle.sin() * flip, scale / aspect * angle.cos(), uniform(-1, 1) * slack], -1
            ),
        ],
        1,
    )


def choose_objects(
    ids: Tensor, objects: int, generator: torch.Generator, smallest: float = 0.0015
) -> tuple[Tensor, Tensor, Tensor]:
    """Pick instances: ids (B,S,S) → targets (B,K,S,S) bool, chosen ids (B,K), valid (B,K). Larger objects are likelier."""
    batch, size = ids.shape[0], ids.shape[-1]
    area = torch.zeros(batch, int(ids.max()) + 2).scatter_add_(1, ids.flatten(1), torch.ones(batch, size * size))
    area[:, 0] = 0
    weight = torch.where(area >= smallest * size * size, area, 0.0).sqrt()
    some = weight.sum(1) > 0
    weight[~some] = 1.0
    chosen = torch.multinomial(weight, objects, replacement=True, generator=generator)
    return ids[:, None] == chosen[:, :, None, None], chosen, some[:, None].expand(-1, objects)


def sample_in(region: Tensor, generator: torch.Generator, central: float = 0.5) -> Tensor:
    """One pixel of each region: (B,K,S,S) bool → (B,K,2) xy at pixel centres; with chance ``central`` deep inside, else uniform."""
    batch, objects, size, _ = region.shape
    flat = region.flatten(0, 1).float()
    weight = flat.clone()
    if torch.rand((), generator=generator) < central:
        # How much of the neighbourhood, at three radii, is in the region too: cheap, and close to a distance transform.
        depth = small = F.avg_pool2d(flat[:, None], 4)
        for radius in (1, 2, 4):
            depth = depth * F.avg_pool2d(small, 2 * radius + 1, stride=1, padding=radius)
        weight = F.interpolate(depth, scale_factor=4.0)[:, 0] ** 3 * flat + 1e-9 * flat
    weight = weight.flatten(1)
    weight[weight.sum(1) <= 0] = 1.0
    index = torch.multinomial(weight, 1, generator=generator)[:, 0]
    return torch.stack([index % size + 0.5, index // size + 0.5], -1).view(batch, objects, 2).float()


def boxes_of(targets: Tensor, generator: torch.Generator, jitter: float = 0.07) -> Tensor:
    """Jittered boxes: (B,K,S,S) bool → (B,K,4)."""
    size = targets.shape[-1]
    boxes = tight_boxes(targets)
    side = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    noise = (torch.randn(boxes.shape, generator=generator) * jitter * side).clamp(-0.15 * size, 0.15 * size)
    noise = noise * (torch.rand(boxes.shape[0], boxes.shape[1], 1, generator=generator) < 0.5)
    boxes = (boxes + noise).clamp(0, size)
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(
        [torch.minimum(low, high), torch.maximum(torch.maximum(low, high), torch.minimum(low, high) + 2)], -1
    )
