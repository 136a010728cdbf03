"""CLIP Surgery: a frozen CLIP makes a coarse map of where in an image the thing named by a text lies.

Li et al., "A Closer Look at the Explainability of Contrastive Language-Image Pre-training", 2023 (arXiv 2304.05653). CLIP's own
attention mixes the tokens of distant places, and its feed-forward layers move them away from the texts. In surgery a second stream runs
along the last blocks of the image encoder: it attends by value-value similarity and passes no feed-forward layer, so that each of its
tokens still describes its own patch. The part of the similarities that all texts share is then subtracted.

The sub-modules of ``transformers.CLIPModel`` are called one by one; the model itself is never changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, PreTrainedTokenizerBase

from maskwright.data.fields import read_json
from maskwright.errors import DataError, WeightsError
from maskwright.sam.pretrained import Family, closed, load_pretrained, load_tokenizer
from maskwright.sam.store import weights_signature

NANO_CLIP = Path(__file__).parent / "nano_clip"
CLIP = Family(
    CLIPModel,
    "CLIP",
    "Give 'nano-clip', a Hugging Face id such as openai/clip-vit-base-patch16, or a folder with config.json, model.safetensors and "
    "the tokenizer's files.",
)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of CLIP's training images; every published CLIP is normalised by them."""

DEPTH = 6
"""Blocks of the image encoder, counted from the last, that the second stream runs along (the paper's choice for 12 blocks)."""

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "a close-up of a {}.",
    "a cropped photo of a {}.",
    "a blurry photo of a {}.",
    "a dark photo of a {}.",
    "a bright photo of a {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a photo of one {}.",
    "a photo of many {}.",
    "there is a {} in the scene.",
)
"""Sentences whose mean encoding represents a name, unless the model's folder holds others in ``templates.json``."""

Against = Literal["empty", "names"]

_FEW_WORDS = 500  # a vocabulary up to this size can be listed in a message


class ClipSurgery(nn.Module):
    """A frozen CLIP that maps where in an image the things named by texts are.

    Args:
        model: any CLIP.
        tokenizer: its tokenizer.
        templates: sentences with ``{}`` where the name goes.
        size: side of the square that images are resized to, a multiple of the patch; default: the checkpoint's. Position codes
            are interpolated.
        name: for messages.

    Example:
        >>> clip = ClipSurgery.load()
        >>> clip.maps(images, ["star"]).shape      # images (8, 3, 480, 640) in 0..1
        torch.Size([8, 1, 16, 16])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        templates: Sequence[str] = TEMPLATES,
        size: int | None = None,
        name: str = "clip",
    ) -> None:
        super().__init__()
        # The types that transformers declares are too wide for the attribute accesses below, as in ``Sam``.
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.templates = tuple(templates)
        self.name = name
        patch = int(self.model.config.vision_config.patch_size)
        self.size = size or int(self.model.config.vision_config.image_size)
        if self.size % patch:
            raise DataError(
                [f"{name}: image size {self.size} is not a multiple of this CLIP's patches of {patch} pixels"]
            )
        self.grid = self.size // patch
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.to(self.model.device)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, source: str | Path = "nano-clip", *, size: int | None = None) -> ClipSurgery:
        """Load weights and tokenizer.

        Args:
            source: ``"nano-clip"`` (bundled; its vocabulary is that of procedural scenes alone), a Hugging Face id such as
                ``"openai/clip-vit-base-patch16"``, or a folder in that format.
            size: see the class.

        Raises:
            WeightsError: not found, damaged, not a CLIP, or with missing or unexpected tensors.
            DataError: the size does not fit.
        """
        model, tokenizer, templates = _from_pretrained(NANO_CLIP if str(source) == "nano-clip" else source, str(source))
        return cls(model, tokenizer, templates=templates, size=size, name=str(source))

    def signature(self, names: Sequence[str]) -> str:
        """64 hexadecimal digits that change with the weights, with all else that decides what they compute, and with how the names
        (and the empty one) are read."""
        sentences = [template.format(name) for name in (*names, "") for template in self.templates]
        read = [list(tokens) for tokens in self.tokenizer(sentences)["input_ids"]]
        return weights_signature(self.model, json.dumps([closed(self.model.config), read], sort_keys=True))

    def maps(self, images: Tensor, names: Sequence[str], against: Against | None = None) -> Tensor:
        """Where each of the names is.

        Args:
            images: (B, 3, H, W) in 0..1, of any size; squashed to a square, nothing is cut off.
            names: T of them.
            against: what each name is compared with, see ``similarities``: the ``empty`` text, so that a map depends on its own name
                only, or the other ``names``, so that it depends on all of them. Left out, as in the paper: a single name is compared
                with the empty text, several with each other.

        Returns:
            (B, T, g, g) in 0..1, each map stretched to 0..1 by itself; a constant map is all zeros. g = ``grid``.

        Raises:
            DataError: names that cannot be read, see ``check_names``.
        """
        texts = self.encode_texts(names)
        against = against or ("empty" if len(names) == 1 else "names")
        empty = self.encode_sentences([""]) if against == "empty" else None
        return stretch(similarities(self.encode_images(images), texts, empty))

    # ------------------------------------------------------------------------------------------------ images

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 → (B, 1 + g·g, D) tokens of length 1: the class token of CLIP itself, then the places row by row."""
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False)
        pixels = ((images.clamp(0, 1) - self.mean) / self.std).to(self.model.dtype)
        return F.normalize(surgery_tokens(self.model, pixels), dim=-1)

    # ------------------------------------------------------------------------------------------------ texts

    def encode_texts(self, names: Sequence[str]) -> Tensor:
        """T names → (T, D) of length 1. Raises DataError for names that cannot be read, see ``check_names``."""
        self.check_names(names)
        return self.encode_sentences(names)

    def encode_sentences(self, names: Sequence[str]) -> Tensor:
        """As ``encode_texts``, without checks; an empty name is allowed.

        Every sentence of a name is encoded and normalised, and so is the mean of these codes.
        """
        sentences = [template.format(name) for name in names for template in self.templates]
        tokens = self.tokenizer(sentences, padding=True, return_tensors="pt").to(self.model.device)
        features = self.model.get_text_features(**tokens).pooler_output.unflatten(0, (len(names), -1))
        return F.normalize(F.normalize(features, dim=-1).mean(1), dim=-1)

    def check_names(self, names: Sequence[str]) -> None:
        """Raise one DataError that lists every problem: no name, empty or repeated names, unknown words, names that are too long."""
        problems = [] if names else ["no text is given; name what is to be found"]
        for place, name in enumerate(names):
            if not name.strip():
                problems.append(f"text {place + 1} is empty; name what is to be found")
            elif name in names[:place]:
                problems.append(f"text {name!r} is given twice; give it once")
            else:
                problems += self._unreadable(name)
        if problems:
            raise DataError(problems)

    def _unreadable(self, name: str) -> list[str]:
        tokenizer, problems = self.tokenizer, []
        pieces = tokenizer(name, add_special_tokens=False, return_offsets_mapping=True)
        unknown_words = [
            name[start:end]
            for token, (start, end) in zip(pieces["input_ids"], pieces["offset_mapping"])
            if token == tokenizer.unk_token_id
        ]
        if not pieces["input_ids"]:
            problems.append(f"text {name!r} has no word in it; name what is to be found")
        if unknown_words:
            special = set(tokenizer.all_special_tokens)
            words = sorted(word for word in tokenizer.get_vocab() if word not in special)
            vocabulary = f", only {', '.join(words)}" if len(words) <= _FEW_WORDS else ""
            problems.append(
                f"text {name!r}: {self.name} does not know {', '.join(map(repr, unknown_words))}{vocabulary}. "
                "A CLIP such as openai/clip-vit-base-patch16 reads any text"
            )
        room = int(self.model.config.text_config.max_position_embeddings)
        length = max(len(tokenizer(template.format(name))["input_ids"]) for template in self.templates)
        if length > room:
            problems.append(
                f"text {name!r}: {length} tokens in its longest sentence, {self.name} reads {room}; shorten it"
            )
        return problems


def surgery_tokens(model: CLIPModel, pixels: Tensor, depth: int = DEPTH) -> Tensor:
    """Image tokens in the space that images and texts share: the class token of CLIP itself, the places from the second stream.

    Over the last ``depth`` blocks, with o the original stream and n the new one (equal to o where it starts):
    ``h = LN1(o)``, ``v = V(h)``, ``n ← n + Out(softmax(v vᵀ · scale) v)``, and ``o ← block(o)`` as in the unchanged CLIP.

    Args:
        model: any CLIP; gradients flow to those of its parameters that require them.
        pixels: (B, 3, S, S), normalised; S a multiple of the patch.
        depth: all blocks where the model has fewer.

    Returns:
        (B, 1 + g·g, D), not normalised.
    """
    parts: Any = model
    vision = parts.vision_model
    original = vision.pre_layrnorm(vision.embeddings(pixels, interpolate_pos_encoding=True))
    blocks = vision.encoder.layers
    first = max(0, len(blocks) - depth)
    for block in blocks[:first]:
        original = block(original, None)
    new = original
    for block in blocks[first:]:
        new = new + value_attention(block.self_attn, block.layer_norm1(original))
        original = block(original, None)
    tokens = torch.cat([original[:, :1], new[:, 1:]], 1)
    return parts.visual_projection(vision.post_layernorm(tokens))


def value_attention(attention: Any, hidden: Tensor) -> Tensor:
    """Attention whose queries and keys are the values: (B, N, C) → (B, N, C), with the layer's own scale and output projection."""
    values = attention.v_proj(hidden).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(values, values, values, scale=attention.scale)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def similarities(tokens: Tensor, texts: Tensor, empty: Tensor | None = None) -> Tensor:
    """Similarity of each place to each text, less the part that all texts share.

    - With ``empty``, the code of the empty text: ``f · (g − empty)`` (the paper's form for a single text).
    - Without: ``w_t cos(f, g_t)`` minus its mean over the texts, with the weights ``w = softmax(2 · f_class · g) / mean``: texts that fit
      the whole image count more.

    Args:
        tokens: (B, 1 + g·g, D) of length 1, the class token first.
        texts: (T, D) of length 1; at least two without ``empty``, as the difference of one text to the mean of itself is 0.
        empty: (1, D) of length 1.

    Returns:
        (B, T, g, g).
    """
    if empty is not None:
        scores = tokens[:, 1:] @ (texts - empty).T
    elif len(texts) < 2:
        raise ValueError("a single text needs the empty text to be set against")
    else:
        chance = (2 * tokens[:, :1] @ texts.T).softmax(-1)
        weighted = chance / chance.mean(-1, keepdim=True) * (tokens[:, 1:] @ texts.T)
        scores = weighted - weighted.mean(-1, keepdim=True)
    side = round(scores.shape[1] ** 0.5)
    return scores.transpose(1, 2).unflatten(2, (side, side))


def stretch(maps: Tensor) -> Tensor:
    """Each map (..., h, w) shifted and scaled to 0..1; a constant one is all zeros."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny), 0.0)


def _from_pretrained(source: str | Path, name: str) -> tuple[CLIPModel, PreTrainedTokenizerBase, Sequence[str]]:
    path = Path(source).expanduser()
    if not path.is_dir() and (path.is_absolute() or name.startswith((".", "~"))):
        raise WeightsError(f"{path}: no such folder; expected a CLIP in Hugging Face format")
    place = path if path.is_dir() else source
    model = load_pretrained(CLIP, place, name)
    tokenizer = load_tokenizer(CLIP, place, name)
    return model, tokenizer, _templates(path / "templates.json")


def _templates(path: Path) -> Sequence[str]:
    """The sentences in a model's ``templates.json``; ``TEMPLATES`` where there is no such file."""
    if not path.is_file():
        return TEMPLATES
    try:
        templates = read_json(path)
    except DataError as error:
        raise WeightsError(f"{error}; restore or delete it") from error
    if not templates or not isinstance(templates, list) or not all(isinstance(t, str) and "{}" in t for t in templates):
        raise WeightsError(f"{path}: expected a list of sentences with {{}} in each; correct or delete it")
    return templates
