"""The words of ``nano-clip``: its vocabulary, its sentences, and what it is told about the objects of a scene.

Names come from the generator (shapes of outlines); colour, size and texture are read off the picture as the network sees it, so
that "red" always means what looks red.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from maskwright.data.scenes import CATEGORY_NAMES

NAMES = CATEGORY_NAMES[1:]
PLURALS = tuple({"leaf": "leaves", "cross": "crosses"}.get(name, f"{name}s") for name in NAMES)
COLOURS = ("black", "grey", "white", "red", "brown", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES, TEXTURES, ANYTHING = (
    ("small", "large"),
    ("plain", "textured"),
    ("object", "objects", "shape", "shapes", "thing", "things"),
)
TEMPLATES = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}",
    "a photo of the {}",
    "an image of a {}",
    "a scene with a {}",
    "there is a {}",
)
BEGIN, END, UNKNOWN, PADDING = "<|startoftext|>", "<|endoftext|>", "<|unknown|>", "<|padding|>"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word, case and punctuation left out; any other word is the unknown token."""
    words = {word for template in TEMPLATES for word in template.replace("{}", "").split()}
    words |= {*NAMES, *PLURALS, *COLOURS, *SIZES, *TEXTURES, *ANYTHING, "and", "two", "several", "background"}
    vocabulary = {word: place for place, word in enumerate((BEGIN, END, UNKNOWN, PADDING, *sorted(words)))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+"), behavior="removed", invert=True)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, vocabulary[BEGIN]), (END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN, pad_token=PADDING
    )


@dataclass(frozen=True)
class Objects:
    """What is to be seen of the N = 1 + M slots of B pictures; slot 0 is the ground. All (B, N) int64, -1 where it has no such word.

    Attributes:
        name: index into ``NAMES``. Negative exactly where the slot is the ground or not to be seen.
        colour: index into ``COLOURS``.
        size: index into ``SIZES``; what is neither small nor large has no word.
        texture: index into ``TEXTURES``.
        area: (B, N) share of the picture.
    """

    name: Tensor
    colour: Tensor
    size: Tensor
    texture: Tensor
    area: Tensor


def look_at(images: Tensor, ids: Tensor, categories: Tensor) -> Objects:
    """images (B,3,S,S) in 0..1, ids (B,S,S), categories (B,M) of instances 1..M → their words."""
    batch, slots = len(images), categories.shape[1] + 1
    flat = ids.flatten(1)
    light = images.mean(1, keepdim=True)
    values = torch.cat([torch.ones_like(light), images, light, light.square()], 1).flatten(2)
    sums = torch.zeros(batch, slots, 6).scatter_add_(1, flat[..., None].expand(-1, -1, 6), values.transpose(1, 2))
    count = sums[..., :1].clamp(min=1)
    area, mean = sums[..., 0] / flat.shape[1], sums[..., 1:] / count
    spread = (mean[..., 4] - mean[..., 3].square()).clamp(min=0).sqrt()
    seen = area > 0.002
    seen[:, 0] = False
    name = torch.where(seen, torch.cat([torch.zeros(batch, 1, dtype=torch.long), categories], 1) - 1, -1)
    seen = name >= 0
    size = torch.where(area < 0.015, 0, torch.where(area > 0.12, 1, -1))
    texture = torch.where(spread < 0.06, 0, torch.where(spread > 0.12, 1, -1))
    colour = colour_of(mean[..., :3])
    return Objects(name, *(torch.where(seen, words, -1) for words in (colour, size, texture)), area)


def colour_of(rgb: Tensor) -> Tensor:
    """(..., 3) in 0..1 → (...) index into ``COLOURS``."""
    high, low = rgb.amax(-1), rgb.amin(-1)
    chroma = (high - low).clamp(min=1e-6)
    red, green, blue = rgb.unbind(-1)
    hue = torch.where(
        high == red,
        (green - blue) / chroma % 6,
        torch.where(high == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    degrees = hue * 60
    borders = torch.tensor([15.0, 45.0, 70.0, 165.0, 200.0, 260.0, 300.0, 340.0])
    named = torch.tensor(
        [COLOURS.index(c) for c in ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "red")]
    )
    colour = named[torch.bucketize(degrees.contiguous(), borders)]
    colour = torch.where((colour == COLOURS.index("orange")) & (high < 0.6), COLOURS.index("brown"), colour)
    grey = (high - low) < 0.15 * high.clamp(min=0.3)
    colour = torch.where(grey, COLOURS.index("grey"), colour)
    colour = torch.where(grey & (high > 0.85), COLOURS.index("white"), colour)
    return torch.where(high < 0.18, COLOURS.index("black"), colour)


def describe(objects: Objects, row: int, slot: int, generator: torch.Generator) -> str:
    """Such as "small red star": the name, and each attribute it has with a chance of a half."""
    keep = (torch.rand(3, generator=generator) < 0.5).tolist()
    words = []
    for chosen, attribute, vocabulary in zip(
        keep, (objects.size, objects.texture, objects.colour), (SIZES, TEXTURES, COLOURS)
    ):
        index = int(attribute[row, slot])
        if chosen and index >= 0:
            words.append(vocabulary[index])
    return " ".join([*words, NAMES[int(objects.name[row, slot])]])


def caption(objects: Objects, row: int, generator: torch.Generator) -> str:
    """A sentence about a whole picture: up to three kinds of object, the largest first."""
    groups: dict[int, list[int]] = {}
    for slot in objects.area[row].argsort(descending=True).tolist():
        if objects.name[row, slot] >= 0:
            groups.setdefault(int(objects.name[row, slot]), []).append(slot)
    parts = []
    for slots in list(groups.values())[:3]:
        if len(slots) == 1:
            parts.append(f"a {describe(objects, row, slots[0], generator)}")
        else:
            parts.append(f"{'two' if len(slots) == 2 else 'several'} {PLURALS[int(objects.name[row, slots[0]])]}")
    return " and ".join(parts) if parts else "the background"
