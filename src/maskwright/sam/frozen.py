"""SAM's answers to clicks, several times faster: the decoder of a frozen SAM with its matrices multiplied out beforehand.

``FrozenDecoder`` gives the numbers of ``Sam.decode``, up to rounding, for prompts of clicks, boxes and an earlier answer,
without gradients. What it saves, all by exact algebra:

- In attention between a few tokens and the many cells of the image the cells are never projected:
  ``q (W x) = (q W) x``, so that the projections fall on the tokens; those of value and output are one matrix.
- Everything stays in one layout, cells before channels. A doubling of resolution is a product that gives the four
  pixels of a cell side by side; the fine features lie in that order in memory, with the biases in them, and only the
  mask that counts is brought into rows and columns.
- Several prompts tried on one image after one earlier answer share all that the prompts do not touch.

Padding is masked out. ``Sam.decode`` attends to it, as SAM does, so that an answer there depends on how much padding the
longest prompt of a batch causes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.sam.prompts import PADDING
from maskwright.sam.sam import Embedding, Sam

CPU_CELLS = 8192
"""Cells of images that go through a CPU at a time: few enough for its caches, enough to keep its cores busy."""

GPU_CELLS = 1 << 18
"""The same for other devices, where it bounds the memory."""


@dataclass(frozen=True)
class Cells:
    """What a ``FrozenDecoder`` keeps of M images, cell after cell of the S/16 x S/16 grid: see ``FrozenDecoder.prepare``.

    Attributes:
        low: (M, h·w, C), the embedding as ``Sam.encode`` gave it.
        high1: (M, h·w, 4 C/4), the 2 x 2 pixels of each cell in reading order, with the decoder's bias added.
        high0: (M, h·w, 16 C/8), and the 2 x 2 pixels of each of those, likewise.
    """

    low: Tensor
    high1: Tensor
    high0: Tensor

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, images: Tensor | slice) -> Cells:
        return Cells(self.low[images], self.high1[images], self.high0[images])

    @staticmethod
    def cat(parts: Sequence[Cells]) -> Cells:
        names = ("low", "high1", "high0")
        return Cells(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def to(self, *args, **kwargs) -> Cells:
        return Cells(*(tensor.to(*args, **kwargs) for tensor in (self.low, self.high1, self.high0)))

    @property
    def nbytes(self) -> int:
        return self.low.nbytes + self.high1.nbytes + self.high0.nbytes

    @property
    def features(self) -> Tensor:
        """(M, C, S/16, S/16): ``Embedding.low``, without a copy."""
        side = _side(self.low.shape[1])
        return self.low.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def _side(cells: int) -> int:
    return round(cells**0.5)


def _fold(maps: Tensor, doublings: int) -> Tensor:
    """(M, H, W, C) → (M, cells, 4 ** doublings, C): the pixels of each cell by quarters, then by quarters of those."""
    count, channels = len(maps), maps.shape[-1]
    side, twos = maps.shape[1] >> doublings, [2] * doublings
    split = maps.reshape(count, side, *twos, side, *twos, channels)
    pairs = [axis for level in range(doublings) for axis in (2 + level, 3 + doublings + level)]
    order = [0, 1, 2 + doublings, *pairs, split.ndim - 1]
    return split.permute(order).reshape(count, side * side, 4**doublings, channels)


class FrozenDecoder:
    """The prompt encoder and mask decoder of a SAM whose weights no longer change.

    Args:
        sam: its decoder's weights are read now; training it later is not noticed.
    """

    def __init__(self, sam: Sam) -> None:
        model, decoder = sam.model, sam.model.mask_decoder
        self.size, self.dtype, self.device = sam.size, sam.dtype, sam.device
        grid = sam.size // 16
        self._prompts = model.prompt_encoder
        with torch.no_grad():
            self._position = sam._grid_positions(1).flatten(2).transpose(1, 2).contiguous()
            tokens = [decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens, self._prompts.not_a_point_embed]
            # One token "not a point" goes with every prompt, as in SAM.
            self._always = torch.cat([token.weight for token in tokens])
            self._mask_prompt = _MaskPrompt(self._prompts.mask_embed, model.no_memory_embedding[0, 0])
            self._no_mask = self._prompts.no_mask_embed.weight[0] + model.no_memory_embedding[0, 0]
            self._layers = [_Layer(block) for block in decoder.transformer.layers]
            self._to_image = _ToImage(decoder.transformer.final_attn_token_to_image)
            self._last_norm = decoder.transformer.layer_norm_final_attn
            self._upscale = _Upscale(decoder)
            self._kernels = _Stack(decoder.output_hypernetworks_mlps)
            self._iou_head = decoder.iou_prediction_head
            limits = decoder.dynamic_multimask_stability_delta, decoder.dynamic_multimask_stability_thresh
            self._stable = limits if decoder.dynamic_multimask_via_stability else None
        place = torch.arange((4 * grid) ** 2, device=self.device).view(1, 4 * grid, 4 * grid, 1)
        self._cell_order = _fold(place, 2).flatten()
        self._pixel_order = self._cell_order.argsort()

    @classmethod
    def of(cls, sam: Sam) -> FrozenDecoder:
        """The decoder of a SAM, made once and kept as long as the SAM lives and stays on its device."""
        kept = _KEPT.get(sam)
        if kept is None or (kept.device, kept.dtype) != (sam.device, sam.dtype):
            kept = _KEPT[sam] = cls(sam)
        return kept

    @torch.no_grad()
    def prepare(self, embedding: Embedding) -> Cells:
        """The embeddings of M images as this decoder reads them; as many bytes as before.

        Raises:
            ValueError: the embedding is conditioned on references; clicks on those go through ``Sam.decode``.
        """
        if embedding.conditioned:
            raise ValueError("an embedding that is conditioned on references is not for the frozen decoder")
        return Cells(
            embedding.low.flatten(2).transpose(1, 2).contiguous(),
            (_fold(embedding.high1.permute(0, 2, 3, 1), 1) + self._upscale.bias1).flatten(2),
            (_fold(embedding.high0.permute(0, 2, 3, 1), 2) + self._upscale.bias2).flatten(2),
        )

    @torch.no_grad()
    def decode(
        self,
        cells: Cells,
        images: Tensor,
        points: Tensor,
        labels: Tensor,
        previous: Tensor | None = None,
        multimask: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """M sets of prompts on each of B images.

        Args:
            cells: the images that were prepared.
            images: (B,) places in ``cells``.
            points: (B, M, N, 2) x y in canvas pixels.
            labels: (B, M, N) as in ``Prompts``; points with -1 are not looked at.
            previous: (B, h, w) logits of the earlier answer on each image, as a mask prompt for all M.
            multimask: three candidates, of which the one with the highest predicted IoU counts (for a single click).
                Without, an unstable answer is replaced by the best of the three, as SAM 2 does.

        Returns:
            (B, M, h, w) float32 logits and (B, M) float32 predicted IoU.
        """
        count, sets = labels.shape[:2]
        used = (labels != PADDING).flatten(0, 1).any(0)
        points, labels = points[:, :, used], labels[:, :, used]
        side = self.size // 4
        logits = torch.empty(count, sets, side * side, device=self.device)
        iou = torch.empty(count, sets, device=self.device)
        budget = CPU_CELLS if self.device.type == "cpu" else GPU_CELLS
        at_once = max(1, budget // (cells.low.shape[1] * max(1, sets)))
        for part in (slice(start, start + at_once) for start in range(0, count, at_once)):
            last = None if previous is None else previous[part]
            logits[part], iou[part] = self._decode(cells, images[part], points[part], labels[part], last, multimask)
        return logits.unflatten(2, (side, side)), iou

    def _decode(
        self, cells: Cells, images: Tensor, points: Tensor, labels: Tensor, previous: Tensor | None, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, M, pixels) and predicted IoU (B, M)."""
        count, sets = labels.shape[:2]
        tokens, mask = self._tokens(points.flatten(0, 1), labels.flatten(0, 1))
        image = cells.low.index_select(0, images)
        if previous is None:
            image += self._no_mask
        else:
            folded = previous.to(self.dtype).flatten(1).index_select(1, self._cell_order)
            self._mask_prompt(folded.view(count, -1, 4, 4), onto=image)
        queries = tokens
        for layer in self._layers:
            queries, image = layer(queries, tokens, image, self._position, mask)
        queries = self._last_norm(queries + self._to_image(queries + tokens, image, image + self._position))
        iou, kernels = self._iou_head(queries[:, 1]), self._kernels(queries[:, 2 : 2 + len(self._kernels)])
        logits, iou = self._choose(self._upscale(image, cells, images), kernels, iou, multimask)
        return logits.index_select(1, self._pixel_order).view(count, sets, -1), iou.view(count, sets)

    def _tokens(self, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """(R, n, C) tokens, and (R, n) to be added to scores: -inf on padding, which nobody may attend to, else 0."""
        padding = labels == PADDING
        position = self._prompts.shared_embedding(points.to(self.dtype)[:, None] / self.size)[:, 0]
        given = position + self._prompts.point_embed(labels.clamp(min=0))
        tokens = torch.cat([self._always.expand(len(points), -1, -1), given], 1)
        if not bool(padding.any()):
            return tokens, None
        mask = torch.zeros_like(padding, dtype=self.dtype).masked_fill_(padding, float("-inf"))
        return tokens, F.pad(mask, (len(self._always), 0))

    def _choose(self, fine: Tensor, kernels: Tensor, iou: Tensor, multimask: bool) -> tuple[Tensor, Tensor]:
        """(R, pixels) logits and (R,) predicted IoU of the mask that counts.

        Args:
            fine: (R, pixels, C/8).
            kernels: (R, 4, C/8) of the single mask and the three candidates; ``iou`` (R, 4).
        """
        row = torch.arange(len(iou), device=iou.device)
        best = 1 + iou[:, 1:].argmax(1)
        if multimask:
            return torch.bmm(fine, kernels[row, best][..., None])[..., 0], iou[row, best]
        if self._stable is None:
            return torch.bmm(fine, kernels[:, 0, :, None])[..., 0], iou[:, 0]
        delta, least = self._stable
        single, other = torch.bmm(fine, torch.stack([kernels[:, 0], kernels[row, best]], 2)).unbind(2)
        inner, outer = (single > delta).sum(1), (single > -delta).sum(1)
        stable = torch.where(outer > 0, inner / outer, 1.0) >= least
        return torch.where(stable[:, None], single, other), torch.where(stable, iou[:, 0], iou[row, best])


class _MaskPrompt:
    """Three convolutions without overlap: the 4 x 4 pixels of a cell become a vector."""

    def __init__(self, embed: Any, bias: Tensor) -> None:
        self.weight1, self.weight2 = (
            conv.weight.permute(0, 2, 3, 1).flatten(1).contiguous() for conv in (embed.conv1, embed.conv2)
        )
        self.embed = embed
        self.last, self.bias = embed.conv3.weight.flatten(1).T.contiguous(), embed.conv3.bias + bias

    def __call__(self, logits: Tensor, onto: Tensor) -> None:
        """Add what (B, cells, 4, 4) logits say to the image (B, cells, C)."""
        embed = self.embed
        found = F.linear(logits, self.weight1, embed.conv1.bias)
        found = embed.activation(_norm(found, embed.layer_norm1)).flatten(2)
        found = embed.activation(_norm(F.linear(found, self.weight2, embed.conv2.bias), embed.layer_norm2))
        onto.add_(self.bias).baddbmm_(found, self.last.expand(len(onto), -1, -1))


class _Layer:
    """A block of SAM's two-way transformer."""

    def __init__(self, block: Any) -> None:
        self.block = block
        self.among_tokens = _AmongTokens(block.self_attn)
        self.to_image = _ToImage(block.cross_attn_token_to_image)
        self.to_tokens = _ToTokens(block.cross_attn_image_to_token)

    def __call__(
        self, queries: Tensor, tokens: Tensor, image: Tensor, position: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Queries (R, n, C) and image (B or R, cells, C) → (R, n, C) and (R, cells, C); R is a multiple of B."""
        block = self.block
        if block.skip_first_layer_pe:
            queries = block.layer_norm1(self.among_tokens(queries, queries, mask))
        else:
            queries = block.layer_norm1(queries + self.among_tokens(queries + tokens, queries, mask))
        placed = image + position
        queries = block.layer_norm2(queries + self.to_image(queries + tokens, image, placed))
        queries = block.layer_norm3(queries + block.mlp(queries))
        return queries, block.layer_norm4(self.to_tokens(image, placed, queries + tokens, queries, mask))


class _AmongTokens:
    """Attention of tokens to each other."""

    def __init__(self, attention: Any) -> None:
        self.heads = attention.num_attention_heads
        self.asking = torch.cat([attention.q_proj.weight, attention.k_proj.weight])
        self.asking_bias = torch.cat([attention.q_proj.bias, attention.k_proj.bias])
        self.value, self.output, self.scale = attention.v_proj, attention.o_proj, attention.scaling

    def __call__(self, given: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        rows, count, _ = given.shape
        query, key = F.linear(given, self.asking, self.asking_bias).view(rows, count, 2, self.heads, -1).unbind(2)
        value = self.value(values).view(rows, count, self.heads, -1)
        found = F.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (query, key, value)),
            attn_mask=None if mask is None else mask[:, None, None],
            scale=self.scale,
        )
        return self.output(found.transpose(1, 2).flatten(2))


class _ToImage:
    """Attention of tokens to the cells of the image, with all projections on the tokens' side."""

    def __init__(self, attention: Any) -> None:
        query, key, value, output = _heads(attention)
        scale = attention.scaling
        self.heads = attention.num_attention_heads
        # The key's bias adds the same to the scores of all cells and falls out of the softmax.
        self.query = torch.einsum("hdk,hdq->hkq", key, query).flatten(0, 1).mul(scale)
        self.query_bias = (
            torch.einsum("hdk,hd->hk", key, attention.q_proj.bias.view(query.shape[:2])).flatten().mul(scale)
        )
        self.output = torch.einsum("chd,hdv->chv", output, value).flatten(1)
        self.output_bias = attention.o_proj.bias + attention.o_proj.weight @ attention.v_proj.bias

    def __call__(self, queries: Tensor, image: Tensor, placed: Tensor) -> Tensor:
        """Queries (R, n, C), image and image with its places (B or R, cells, C) → (R, n, C)."""
        asked = F.linear(queries, self.query, self.query_bias).view(len(image), -1, image.shape[-1])
        weights = torch.bmm(asked, placed.transpose(1, 2)).softmax(-1)
        found = torch.bmm(weights, image).view(*queries.shape[:2], -1)
        return F.linear(found, self.output, self.output_bias)


class _ToTokens:
    """Attention of the cells of the image to tokens, with all projections on the tokens' side."""

    def __init__(self, attention: Any) -> None:
        query, key, value, output = _heads(attention)
        scale, heads = attention.scaling, attention.num_attention_heads
        bias = attention.q_proj.bias.view(query.shape[:2])
        self.key = torch.einsum("hdq,hdk->hqk", query, key).flatten(0, 1).mul(scale)
        # The query's bias tells tokens apart whatever the cell; the key's adds the same to all tokens and falls out.
        self.bias = torch.einsum("hd,hdk->hk", bias, key).mul(scale)
        self.value = torch.einsum("chd,hdv->hcv", output, value).flatten(0, 1)
        # The weights of each head sum up to 1, so every head takes its share of the last bias along.
        values = torch.einsum("chd,hd->hc", output, attention.v_proj.bias.view(value.shape[:2]))
        self.value_bias = (values + attention.o_proj.bias / heads).flatten()

    def __call__(self, image: Tensor, placed: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Image and image with its places (B or R, cells, C), keys and values (R, n, C) → (R, cells, C), the image and
        what its cells found. Overwrites the image where there is one for each row."""
        rows, count, width = keys.shape
        images, cells = image.shape[:2]
        bias = F.linear(keys, self.bias)
        bias = bias if mask is None else bias + mask[..., None]
        asked = F.linear(keys, self.key).view(images, -1, width)
        scores = torch.baddbmm(bias.view(images, -1, 1), asked, placed.transpose(1, 2))
        weights = scores.view(rows, count, -1).softmax(1).view(rows, -1, cells)
        told = F.linear(values, self.value, self.value_bias).view(rows, -1, width)
        image = image if images == rows else image.repeat_interleave(rows // images, 0)
        return image.baddbmm_(weights.transpose(1, 2), told)


def _heads(attention: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights by head: query, key and value (heads, width of a head, C), output (C, heads, width of a head)."""
    heads = attention.num_attention_heads
    inward = [proj.weight.unflatten(0, (heads, -1)) for proj in (attention.q_proj, attention.k_proj, attention.v_proj)]
    return *inward, attention.o_proj.weight.unflatten(1, (heads, -1))


class _Upscale:
    """Two doublings of resolution with the fine features added. The biases are in those (``FrozenDecoder.prepare``)."""

    def __init__(self, decoder: Any) -> None:
        self.weight1, self.weight2 = _pixels(decoder.upscale_conv1), _pixels(decoder.upscale_conv2)
        self.bias1, self.bias2 = decoder.upscale_conv1.bias, decoder.upscale_conv2.bias
        self.norm = decoder.upscale_layer_norm

    def __call__(self, image: Tensor, cells: Cells, images: Tensor) -> Tensor:
        """(R, cells, C) of B images → (R, 16 cells, C/8)."""
        rows = images if len(image) == len(images) else images.repeat_interleave(len(image) // len(images))
        found = cells.high1.index_select(0, rows).view(-1, len(self.weight1))
        found.addmm_(image.flatten(0, 1), self.weight1)
        found = F.gelu(_norm(found.view(-1, *self.norm.normalized_shape), self.norm))
        fine = cells.high0.index_select(0, rows).view(len(found), -1)
        fine.addmm_(found, self.weight2)
        return F.gelu(fine).view(len(image), -1, len(self.bias2))


def _pixels(conv: Any) -> Tensor:
    """A transposed convolution of 2 x 2 with stride 2 as a matrix (C, 4 C'): the four pixels side by side."""
    return conv.weight.permute(0, 2, 3, 1).flatten(1).contiguous()


def _norm(values: Tensor, norm: Any) -> Tensor:
    """Layer norm over the last dimension, with the weights of a module that may expect another layout."""
    return F.layer_norm(values, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class _Stack:
    """Perceptrons of the same shape, each on a token of its own, in one product a layer."""

    def __init__(self, networks: Any) -> None:
        layers = [[net.proj_in, *net.layers, net.proj_out] for net in networks]
        self.weights = [torch.stack([layer.weight.T for layer in level]) for level in zip(*layers)]
        self.biases = [torch.stack([layer.bias for layer in level])[:, None] for level in zip(*layers)]
        self.activation = networks[0].activation

    def __len__(self) -> int:
        return len(self.weights[0])

    def __call__(self, tokens: Tensor) -> Tensor:
        """(R, networks, C) → (R, networks, C')."""
        found = tokens.transpose(0, 1)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            found = torch.baddbmm(bias, self.activation(found) if number else found, weight)
        return found.transpose(0, 1)


_KEPT: WeakKeyDictionary[Sam, FrozenDecoder] = WeakKeyDictionary()
