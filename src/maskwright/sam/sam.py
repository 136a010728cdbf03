"""SAM 2 as four verbs: encode, decode, remember, recall.

The sub-modules of ``transformers.Sam2VideoModel`` are called directly, because the model's own ``forward`` is a video session:
under ``inference_mode``, one frame and one object at a time, in bfloat16. Here everything is batched over images (B), objects
(K) and references (R), differentiable, and on any device and dtype. Checked against Meta's code in ``tests/sam/test_parity.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2VideoConfig, Sam2VideoModel

from maskwright.errors import WeightsError
from maskwright.sam.pretrained import closed
from maskwright.sam.prompts import PADDING, Prompts
from maskwright.sam.pyramid import feature_pyramid
from maskwright.sam.store import weights_signature
from maskwright.sam.weights import initialise, load_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ABSENT = -1024.0
"""Logit of every pixel where the decoder says that the object is not there (SAM 2)."""


@dataclass(frozen=True)
class Embedding:
    """What ``encode`` computed once for ``B`` images.

    Attributes:
        high0: (B, C/8, S/4, S/4), high1: (B, C/4, S/8, S/8): features for fine outlines, already narrowed for the decoder.
        low: (B, C, S/16, S/16); after a ``recall`` with references per object (B, K, C, S/16, S/16).
        conditioned: ``low`` has been through ``recall``.
    """

    high0: Tensor
    high1: Tensor
    low: Tensor
    conditioned: bool = False

    def __len__(self) -> int:
        return self.low.shape[0]

    def __getitem__(self, index: Tensor | slice | list[int]) -> Embedding:
        """Some of the images, in the order asked for."""
        return replace(self, high0=self.high0[index], high1=self.high1[index], low=self.low[index])

    def to(self, *args, **kwargs) -> Embedding:
        return replace(
            self,
            high0=self.high0.to(*args, **kwargs),
            high1=self.high1.to(*args, **kwargs),
            low=self.low.to(*args, **kwargs),
        )

    def detach(self) -> Embedding:
        return replace(self, high0=self.high0.detach(), high1=self.high1.detach(), low=self.low.detach())

    @staticmethod
    def cat(parts: list[Embedding]) -> Embedding:
        return Embedding(
            torch.cat([p.high0 for p in parts]),
            torch.cat([p.high1 for p in parts]),
            torch.cat([p.low for p in parts]),
            parts[0].conditioned,
        )


@dataclass(frozen=True)
class Masks:
    """What ``decode`` answers for ``K`` objects in each of ``B`` images.

    Attributes:
        logits: (B, K, M, S/4, S/4); M = 3 with ``multimask``, else 1. Above 0 = on the object.
        iou: (B, K, M) in 0..1, the model's own guess of each mask's IoU.
        presence: (B, K) logit: is the object in the image at all?
        pointers: (B, K, M, C) object pointers, before ``presence`` is taken into account.
    """

    logits: Tensor
    iou: Tensor
    presence: Tensor
    pointers: Tensor

    @property
    def best(self) -> Tensor:
        """(B, K, S/4, S/4): logits of the mask with the highest predicted IoU."""
        index = self.iou.argmax(-1)[..., None, None, None].expand(*self.logits.shape[:2], 1, *self.logits.shape[-2:])
        return self.logits.gather(2, index).squeeze(2)

    @property
    def best_iou(self) -> Tensor:
        """(B, K): the highest predicted IoU."""
        return self.iou.amax(-1)

    def suppressed(self) -> Masks:
        """The same with all logits at -1024 where the object is said to be absent (SAM 2's own convention)."""
        return replace(self, logits=torch.where(self.presence[..., None, None, None] > 0, self.logits, ABSENT))


@dataclass(frozen=True)
class Memory:
    """References: images with the mask of one object each. Leading dimensions are free: (B, K), (B, R), (B, K, R) ...

    Attributes:
        features: (..., 64, S/16, S/16).
        pointers: (..., C).
    """

    features: Tensor
    pointers: Tensor

    def __getitem__(self, index) -> Memory:
        """Index the leading dimensions."""
        return Memory(self.features[index], self.pointers[index])

    def detach(self) -> Memory:
        return Memory(self.features.detach(), self.pointers.detach())

    def to(self, *args, **kwargs) -> Memory:
        return Memory(self.features.to(*args, **kwargs), self.pointers.to(*args, **kwargs))

    @staticmethod
    def cat(parts: list[Memory], dim: int = 0) -> Memory:
        return Memory(torch.cat([p.features for p in parts], dim), torch.cat([p.pointers for p in parts], dim))


class Sam(nn.Module):
    """SAM 2 with its four verbs. Stays in evaluation mode unless ``train()`` is called.

    Args:
        model: the network.
        size: side of the square canvas that images are resized to; a multiple of 32 (default: the checkpoint's).
        name: for messages.
    """

    model: Any
    mean: Tensor
    std: Tensor

    def __init__(self, model: Sam2VideoModel, size: int | None = None, name: str = "sam") -> None:
        super().__init__()
        # transformers' own types are too wide to be of use below: nested configurations may be dicts there.
        self.model = model
        size = size or int(self.model.config.image_size)
        if size % 32:
            raise ValueError(f"image size {size} is not a multiple of 32")
        self.size = size
        self.name = name
        grid = size // 16
        attention = self.model.memory_attention
        self.model.config.memory_attention_rope_feat_sizes = [grid, grid]
        attention.position_ids = attention.precompute_positions(self.model.config).to(model.device)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.to(model.device)
        self.eval()

    @classmethod
    def load(cls, source: str | Path = "nano", *, size: int | None = None) -> Sam:
        """Load weights.

        Args:
            source: ``"nano"`` (bundled), a Hugging Face id such as ``"facebook/sam2.1-hiera-tiny"``, a folder in that format, or an
                official ``.pt`` file (converted once, beside the file).
            size: canvas size other than the checkpoint's.

        Raises:
            WeightsError: not found, damaged, of another architecture, with missing or unexpected tensors, or for a canvas whose side is
                no multiple of 32.
        """
        model, name = load_model(source)
        config: Any = model.config
        side = int(config.image_size)
        if size is None and side % 32:
            raise WeightsError(
                f"{name}: config.json: image_size {side}: must be a multiple of 32; correct it there, or name another canvas with --size"
            )
        return cls(model, size, name)

    @classmethod
    def from_config(cls, config: Sam2VideoConfig, *, size: int | None = None, seed: int = 0) -> Sam:
        """A network with random weights, initialised so that it can be trained from scratch (see ``weights.initialise``)."""
        return cls(initialise(Sam2VideoModel(config), seed), size, "random")

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def width(self) -> int:
        """C, the width of the embeddings."""
        return self.model.config.prompt_encoder_config.hidden_size

    def networks(self) -> list[nn.Module]:
        """What the verbs call as a whole, and what costs nearly all of their time."""
        model = self.model
        return [model.vision_encoder.backbone, model.mask_decoder, model.memory_attention, model.memory_encoder]

    def signature(self, *, configured: bool = True) -> str:
        """64 hexadecimal digits that change with the weights, and with all else that decides what they compute.

        Args:
            configured: False: with the weights alone, as version 1 of the model format has it.
        """
        return weights_signature(self.model, self.architecture() if configured else "")

    def architecture(self) -> str:
        """All but the weights that decides what they compute, as JSON."""
        return json.dumps(closed(self.model.config), sort_keys=True)

    def encode(self, images: Tensor) -> Embedding:
        """Image encoder: compute once, use for every prompt.

        Args:
            images: (B, 3, H, W) in 0..1; resized to the canvas where H, W are not its size.
        """
        return self.neck(self.backbone(self.normalise(images)))

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 → (B, 3, S, S), resized and normalised with ImageNet's mean and deviation."""
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        return ((images - self.mean) / self.std).to(self.dtype)

    def backbone(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The trunk: normalised (B, 3, S, S) → one (B, S/s, S/s, C_s) per stage, s = 4, 8, 16, 32."""
        return self.model.vision_encoder.backbone(pixels).intermediate_hidden_states

    def neck(self, stages: tuple[Tensor, ...]) -> Embedding:
        """Feature pyramid over the stages, and the decoder's narrowing of the two fine levels."""
        low, high1, high0 = feature_pyramid(self.model.vision_encoder.neck, stages)
        decoder = self.model.mask_decoder
        return Embedding(decoder.conv_s0(high0), decoder.conv_s1(high1), low)

    def decode(
        self,
        embedding: Embedding,
        prompts: Prompts | None = None,
        previous: Tensor | None = None,
        multimask: bool = False,
        previous_valid: Tensor | None = None,
    ) -> Masks:
        """Prompt encoder and mask decoder.

        Args:
            embedding: of B images.
            prompts: (B, K) objects; None: no prompt (one object per image, or the K that ``recall`` conditioned on).
            previous: (B, K, S/4, S/4) logits of an earlier answer, as a mask prompt.
            multimask: three masks per object instead of one (better after a single click). With one, an unstable answer is
                replaced by the best of the three, as SAM 2 does, except in training mode.
            previous_valid: (B, K) bool: which objects have a ``previous``; None: all of them.
        """
        per_object = embedding.low.ndim == 5
        if prompts is None:
            objects = embedding.low.shape[1] if per_object else (previous.shape[1] if previous is not None else 1)
            prompts = Prompts.none(len(embedding), objects, embedding.low.device)
        batch, objects = prompts.shape
        low = (
            embedding.low
            if embedding.conditioned
            else embedding.low + self.model.no_memory_embedding[0, :, :, None, None]
        )
        low = low.flatten(0, 1) if per_object else _for_each(low, objects)
        logits, iou, tokens, presence = self.model.mask_decoder(
            image_embeddings=low,
            image_positional_embeddings=self._grid_positions(low.shape[0]),
            sparse_prompt_embeddings=self._embed_prompts(prompts),
            dense_prompt_embeddings=self._embed_mask(previous, previous_valid, low),
            multimask_output=multimask,
            high_resolution_features=[
                _for_each(embedding.high0, objects),
                _for_each(embedding.high1, objects),
            ],
        )
        return Masks(
            logits.unflatten(0, (batch, objects)).squeeze(2),
            iou.unflatten(0, (batch, objects)).squeeze(2),
            presence.reshape(batch, objects),
            self.model.object_pointer_proj(tokens).unflatten(0, (batch, objects)).squeeze(2),
        )

    def attend(self, embedding: Embedding, prompts: Prompts) -> Tensor:
        """The image's tokens after the mask decoder's two-way blocks have looked at a prompt: what masks are made of.

        The rest of :meth:`decode` is skipped: the up-scaling, masks and scores, which cost the most.

        Args:
            embedding: of B images, without references per object.
            prompts: (B, K) objects.

        Returns:
            (B, K, h·w, C), row by row of the embedding's grid (h, w).
        """
        decoder, (batch, objects) = self.model.mask_decoder, prompts.shape
        low = (
            embedding.low
            if embedding.conditioned
            else embedding.low + self.model.no_memory_embedding[0, :, :, None, None]
        )
        low = low + self._embed_mask(None, None, low)
        learnt = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
        prompted = self._embed_prompts(prompts)
        asked = torch.cat([learnt.expand(batch * objects, 1, -1, -1), prompted], 2).to(low.dtype)
        queries, keys = asked, low.flatten(2).transpose(1, 2).repeat_interleave(objects, 0)[:, None]
        position = self._grid_positions(1).flatten(2).transpose(1, 2)[:, None].expand_as(keys)
        for layer in decoder.transformer.layers:
            queries, keys, _ = layer(
                queries=queries,
                keys=keys,
                query_point_embedding=asked,
                key_point_embedding=position,
                attention_similarity=None,
            )
        return keys[:, 0].unflatten(0, (batch, objects))

    def remember(self, embedding: Embedding, masks: Tensor) -> Memory:
        """Memory encoder: an image with its mask becomes a reference.

        Args:
            embedding: of B images, not conditioned.
            masks: (B, K, H, W) in 0..1 (probabilities or 0/1), one per object, at any resolution.

        Returns:
            Memory with leading dimensions (B, K).
        """
        model, config = self.model, self.model.config
        batch, objects = masks.shape[:2]
        masks = masks.to(embedding.low.dtype).flatten(0, 1)[:, None]
        if masks.shape[-2:] != (self.size, self.size):
            masks = F.interpolate(masks, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        rows = replace(
            embedding,
            high0=embedding.high0.repeat_interleave(objects, 0),
            high1=embedding.high1.repeat_interleave(objects, 0),
            low=embedding.low.repeat_interleave(objects, 0),
            # SAM 2 reads the pointer of a given mask off the raw features, without the "no memory" embedding.
            conditioned=True,
        )
        sharpened = torch.sigmoid(masks * 20.0 - 10.0)
        features, _ = model.memory_encoder(
            rows.low, sharpened * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        )
        pointers = self.decode(rows, None, model.mask_downsample(masks)).pointers[:, 0, 0]
        present = (masks.flatten(1).amax(1, keepdim=True) > 0).to(pointers.dtype)
        pointers = self._or_absent(pointers, present)
        if model.occlusion_spatial_embedding_parameter is not None:
            features = features + ((1 - present) * model.occlusion_spatial_embedding_parameter)[..., None, None]
        return Memory(features.unflatten(0, (batch, objects)), pointers.unflatten(0, (batch, objects)))

    def recall(self, embedding: Embedding, memory: Memory, offset: float = 0.5) -> Embedding:
        """Memory attention: condition images on references. The order of the references does not matter.

        All references get one temporal code (that of a frame the user marked) and one pointer offset.

        Args:
            embedding: of B images, not conditioned.
            memory: (B, R), the same for all objects, or (B, K, R).
            offset: normalised distance in time that SAM 2 is told, in 0..1.

        Returns:
            The conditioned embedding; ``low`` is (B, C, h, w) for memory (B, R), else (B, K, C, h, w).
        """
        per_object = memory.pointers.ndim == 4
        objects = memory.pointers.shape[1] if per_object else 1
        features = memory.features.flatten(0, 1) if per_object else memory.features
        pointers = memory.pointers.flatten(0, 1) if per_object else memory.pointers
        rows, references = pointers.shape[:2]
        low = embedding.low.repeat_interleave(objects, 0)
        height, width = low.shape[-2:]

        maps = features.flatten(3).transpose(2, 3).flatten(1, 2)
        maps_position = self._memory_positions(features).repeat(1, references, 1).expand(rows, -1, -1)
        tokens = pointers.unflatten(-1, (-1, maps.shape[-1])).flatten(1, 2)
        tokens_position = self._pointer_position(offset).to(tokens).expand_as(tokens)
        position = self.model.vision_encoder.neck.position_encoding(
            low.shape[:1] + low.shape[1:], low.device, low.dtype
        )
        conditioned = self.model.memory_attention(
            current_vision_features=low.flatten(2).permute(2, 0, 1),
            current_vision_position_embeddings=position.flatten(2).permute(2, 0, 1),
            memory=torch.cat([maps, tokens], 1).transpose(0, 1),
            memory_posision_embeddings=torch.cat([maps_position, tokens_position], 1).transpose(0, 1),
            num_object_pointer_tokens=tokens.shape[1],
        )
        low = conditioned.reshape(-1, height * width, low.shape[1]).transpose(1, 2).unflatten(2, (height, width))
        if per_object:
            low = low.unflatten(0, (-1, objects))
        return replace(embedding, low=low, conditioned=True)

    def pointers(self, masks: Masks) -> Tensor:
        """(B, K, C): object pointer of each best mask; SAM's "no object" where ``presence`` says that it is absent."""
        index = masks.iou.argmax(-1)[..., None, None].expand(-1, -1, 1, masks.pointers.shape[-1])
        present = (masks.presence > 0).to(masks.pointers.dtype)[..., None]
        return self._or_absent(masks.pointers.gather(2, index).squeeze(2), present)

    def _or_absent(self, pointers: Tensor, present: Tensor) -> Tensor:
        return present * pointers + (1 - present) * self.model.no_object_pointer

    def _embed_prompts(self, prompts: Prompts) -> Tensor:
        """(B·K, 1, N + 1, C) tokens; one padding token at the end, as SAM 2 appends it."""
        encoder = self.model.prompt_encoder
        points = F.pad(prompts.points.flatten(0, 1)[:, None].to(self.dtype), (0, 0, 0, 1))
        labels = F.pad(prompts.labels.flatten(0, 1)[:, None], (0, 1), value=PADDING)[..., None]
        position = encoder.shared_embedding(points / self.size)
        tokens = position + encoder.point_embed(labels[..., 0].clamp(min=0))
        return torch.where(labels == PADDING, encoder.not_a_point_embed.weight, tokens)

    def _embed_mask(self, previous: Tensor | None, valid: Tensor | None, low: Tensor) -> Tensor:
        encoder = self.model.prompt_encoder
        nothing = encoder.no_mask_embed.weight[0, :, None, None].expand_as(low)
        if previous is None:
            return nothing
        embedded = encoder.mask_embed(previous.reshape(-1, 1, *previous.shape[-2:]).to(low.dtype))
        return embedded if valid is None else torch.where(valid.reshape(-1, 1, 1, 1), embedded, nothing)

    def _grid_positions(self, rows: int) -> Tensor:
        """Position codes of the embedding's cells, in the same code as clicks."""
        centres = (torch.arange(self.size // 16, device=self.device, dtype=self.dtype) + 0.5) / (self.size // 16)
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)
        return self.model.shared_image_embedding(grid[None])[0].permute(2, 0, 1).expand(rows, -1, -1, -1)

    def _memory_positions(self, features: Tensor) -> Tensor:
        """(1, h·w, 64): sine codes plus the temporal code of a marked frame."""
        shape = torch.Size([1, *features.shape[-3:]])
        sine = self.model.memory_encoder.position_encoding(shape, features.device, features.dtype)
        return sine.flatten(2).transpose(1, 2) + self.model.memory_temporal_positional_encoding[-1]

    def _pointer_position(self, offset: float) -> Tensor:
        """(64,) or a scalar zero for models without temporal codes on pointers (SAM 2.0)."""
        if not self.model.config.enable_temporal_pos_encoding_for_object_pointers:
            return torch.zeros((), device=self.device)
        half = self.width // 2
        frequency = 10000.0 ** (2 * (torch.arange(half, device=self.device) // 2) / half)
        angle = offset / frequency
        code = torch.cat([angle.sin(), angle.cos()]).to(self.dtype)
        return self.model.temporal_positional_encoding_projection_layer(code)


def _for_each(features: Tensor, objects: int) -> Tensor:
    """(B, ...) → (B · objects, ...), each image's rows one after the other.

    What ``repeat_interleave`` gives; without a copy for one object, and ONNX can hold it for any number of images.
    """
    return features[:, None].expand(-1, objects, *features.shape[1:]).flatten(0, 1)
