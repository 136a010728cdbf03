"""The four verbs: a batch gives what one image, one object and one reference at a time give, and gradients flow through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.sam.prompts import PADDING, Prompts
from maskwright.sam.sam import ABSENT, Embedding, Masks, Memory, Sam
from tests.helpers import tiny_config

B, K, R, SIZE = 2, 3, 2, 64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.rand(count, 3, size, size, generator=seeded(seed))


def discs(count: int, objects: int, seed: int, size: int = SIZE) -> Tensor:
    """(count, objects, S, S) filled circles."""
    centre = torch.rand(count, objects, 2, 1, 1, generator=seeded(seed)) * size
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((x - centre[:, :, 0]).square() + (y - centre[:, :, 1]).square() < (size / 4) ** 2).float()


def clicks_and_boxes(batch: int = B, objects: int = K, seed: int = 7) -> Prompts:
    points = torch.rand(batch, objects, 2, 2, generator=seeded(seed)) * SIZE
    corner = torch.rand(batch, objects, 2, generator=seeded(seed + 1)) * SIZE / 2
    clicks = Prompts.of_points(points, torch.tensor([1, 0]).expand(batch, objects, 2))
    return clicks.join(Prompts.of_boxes(torch.cat([corner, corner + 20], -1)))


def per_object(memory: Memory, batch: int) -> Memory:
    """Memories of (B·R, K) as (B, K, R)."""
    return Memory(
        memory.features.unflatten(0, (batch, -1)).transpose(1, 2),
        memory.pointers.unflatten(0, (batch, -1)).transpose(1, 2),
    )


def close(actual: Masks, expected: Masks) -> None:
    for name in ("logits", "iou", "presence", "pointers"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("multimask", [False, True])
def test_a_batch_is_what_its_parts_are(any_sam: Sam, multimask: bool):
    queries, references, drawn = pictures(B), pictures(B * R, 1), discs(B * R, K, 2)
    asked, previous = clicks_and_boxes(), torch.randn(B, K, SIZE // 4, SIZE // 4, generator=seeded(3))
    memory = per_object(any_sam.remember(any_sam.encode(references), drawn), B)
    embedding = any_sam.recall(any_sam.encode(queries), memory)
    assert embedding.low.shape == (B, K, 64, 4, 4)
    masks = any_sam.decode(embedding, asked, previous, multimask)
    assert masks.logits.shape == (B, K, 3 if multimask else 1, 16, 16)
    for b in range(B):
        for k in range(K):
            parts = [
                any_sam.remember(any_sam.encode(references[i : i + 1]), drawn[i : i + 1, k : k + 1])
                for i in range(b * R, b * R + R)
            ]
            alone = any_sam.recall(any_sam.encode(queries[b : b + 1]), Memory.cat(parts, 1))
            assert alone.low.shape == (1, 64, 4, 4)
            prompt = Prompts(asked.points[b : b + 1, k : k + 1], asked.labels[b : b + 1, k : k + 1])
            answer = any_sam.decode(alone, prompt, previous[b : b + 1, k : k + 1], multimask)
            here = Masks(*(getattr(masks, n)[b : b + 1, k : k + 1] for n in ("logits", "iou", "presence", "pointers")))
            close(here, answer)


@torch.no_grad()
def test_shared_references_equal_the_same_ones_per_object(any_sam: Sam):
    embedding = any_sam.encode(pictures(B))
    memory = any_sam.remember(any_sam.encode(pictures(R, 1)), discs(R, 1, 2))[:, 0]
    shared = Memory(memory.features.expand(B, -1, -1, -1, -1), memory.pointers.expand(B, -1, -1))
    each = Memory(shared.features[:, None].expand(-1, K, *[-1] * 4), shared.pointers[:, None].expand(-1, K, -1, -1))
    asked = clicks_and_boxes()
    close(
        any_sam.decode(any_sam.recall(embedding, shared), asked),
        any_sam.decode(any_sam.recall(embedding, each), asked),
    )


def test_gradients_reach_every_part(any_sam: Sam):
    any_sam.requires_grad_(True)
    query, reference, drawn = pictures(1).requires_grad_(), pictures(R, 1).requires_grad_(), discs(R, 1, 2)
    drawn.requires_grad_()
    memory = any_sam.remember(any_sam.encode(reference), drawn)[:, 0]
    memory = Memory(memory.features[None], memory.pointers[None])
    masks = any_sam.decode(any_sam.recall(any_sam.encode(query), memory), clicks_and_boxes(1, 1))
    (masks.logits.square().mean() + masks.iou.sum()).backward()
    model = any_sam.model
    reached = {
        "query": query,
        "reference": reference,
        "mask": drawn,
        "first layer": next(model.vision_encoder.backbone.get_input_embeddings().parameters()),
        "memory encoder": model.memory_encoder.projection.weight,
        "memory attention": model.memory_attention.layers[0].cross_attn_image.k_proj.weight,
        "pointer": model.object_pointer_proj.proj_out.weight,
        "prompt encoder": model.prompt_encoder.point_embed.weight,
        "decoder": model.mask_decoder.upscale_conv1.weight,
        "fine features": model.mask_decoder.conv_s0.weight,
    }
    for name, tensor in reached.items():
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().sum() > 0, name


@torch.no_grad()
@pytest.mark.parametrize("for_each_object", [False, True])
def test_recall_does_not_know_the_order_of_references(any_sam: Sam, for_each_object: bool):
    embedding, count = any_sam.encode(pictures(B)), 4
    objects = K if for_each_object else 1
    memory = per_object(any_sam.remember(any_sam.encode(pictures(B * count, 1)), discs(B * count, objects, 2)), B)
    memory = memory if for_each_object else memory[:, 0]
    order = torch.tensor([2, 0, 3, 1])
    shuffled = memory[:, :, order] if for_each_object else memory[:, order]
    recalled = any_sam.recall(embedding, memory).low
    torch.testing.assert_close(any_sam.recall(embedding, shuffled).low, recalled, rtol=1e-5, atol=1e-5)
    fewer = memory[:, :, :2] if for_each_object else memory[:, :2]
    assert not torch.allclose(any_sam.recall(embedding, fewer).low, recalled, atol=1e-3)


@torch.no_grad()
def test_previous_answers_count(any_sam: Sam):
    embedding, asked = any_sam.encode(pictures(B)), clicks_and_boxes()
    first = any_sam.decode(embedding, asked)
    second = any_sam.decode(embedding, asked, first.best)
    assert second.logits.shape == first.logits.shape
    assert not torch.allclose(second.logits, first.logits, atol=1e-3)
    unasked = any_sam.decode(embedding, previous=first.best)
    assert unasked.logits.shape == (B, K, 1, 16, 16)
    none = Prompts.none(B, K)
    close(unasked, any_sam.decode(embedding, none, first.best))


@torch.no_grad()
def test_only_some_objects_may_have_a_previous_answer(any_sam: Sam):
    embedding, asked = any_sam.encode(pictures(B)), clicks_and_boxes()
    previous = torch.randn(B, K, 16, 16, generator=seeded(3))
    valid = torch.tensor([[True, False, True], [False, False, True]])
    mixed = any_sam.decode(embedding, asked, previous, previous_valid=valid)
    choose = valid[:, :, None, None, None]
    all_of_them, none = any_sam.decode(embedding, asked, previous), any_sam.decode(embedding, asked)
    torch.testing.assert_close(mixed.logits, torch.where(choose, all_of_them.logits, none.logits))
    close(any_sam.decode(embedding, asked, previous, previous_valid=torch.ones_like(valid)), all_of_them)


@torch.no_grad()
def test_where_padding_lies_and_the_order_of_clicks_do_not_matter(any_sam: Sam):
    embedding, asked = any_sam.encode(pictures(B)), clicks_and_boxes()
    labels = asked.labels.clone()
    labels[:, :, -1] = PADDING
    moved = asked.points.clone()
    moved[:, :, -1] = 1e4
    answer = any_sam.decode(embedding, Prompts(asked.points, labels))
    close(any_sam.decode(embedding, Prompts(moved, labels)), answer)
    back = [3, 1, 2, 0]
    close(any_sam.decode(embedding, Prompts(moved[:, :, back], labels[:, :, back])), answer)


def test_boxes_name_the_centres_of_their_corner_pixels():
    boxes = torch.tensor([[[8.0, 4.0, 24.0, 12.0], [0.0, 0.0, 0.0, 0.0]]])
    asked = Prompts.of_boxes(boxes, torch.tensor([[True, False]]))
    assert asked.points[0, 0].tolist() == [[8.5, 4.5], [23.5, 11.5]]
    assert asked.labels.tolist() == [[[2, 3], [-1, -1]]]
    assert asked.shape == (1, 2)
    assert asked.rows(torch.tensor([0, 0])).shape == (2, 2)
    with pytest.raises(ValueError, match=r"points \(B, K, N, 2\)"):
        Prompts(torch.zeros(1, 2, 2), torch.zeros(1, 2))


@torch.no_grad()
@pytest.mark.parametrize("size", [96, 128])
def test_another_canvas_than_the_checkpoints(any_sam: Sam, tmp_path: Path, size: int):
    any_sam.model.save_pretrained(tmp_path)
    sam = Sam.load(tmp_path, size=size)
    embedding = sam.encode(pictures(1, size=size))
    assert embedding.high0.shape[-1] == size // 4
    assert embedding.low.shape[-1] == size // 16
    memory = sam.remember(embedding, discs(1, 1, 0, size))
    masks = sam.decode(sam.recall(embedding, memory))
    assert masks.logits.shape == (1, 1, 1, size // 4, size // 4)
    assert masks.logits.isfinite().all()
    same = Sam.from_config(any_sam.model.config, size=size)
    close(same.decode(same.recall(same.encode(pictures(1, size=size)), memory)), masks)


def test_a_canvas_must_fit_the_strides():
    with pytest.raises(ValueError, match="100 is not a multiple of 32"):
        Sam.from_config(tiny_config(), size=100)


@torch.no_grad()
def test_encode_resizes_and_normalises_once(any_sam: Sam):
    wide = torch.rand(1, 3, 40, 150, generator=seeded(0))
    by_hand = F.interpolate(wide, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(any_sam.encode(wide).low, any_sam.encode(by_hand).low)
    grey = torch.tensor([0.485, 0.456, 0.406])[:, None, None].expand(1, 3, SIZE, SIZE)
    assert any_sam.normalise(grey).abs().max() < 1e-6
    assert torch.allclose(any_sam.normalise(grey + torch.tensor([0.229, 0.224, 0.225])[:, None, None]), torch.ones(1))


@torch.no_grad()
def test_an_empty_mask_is_remembered_as_absent(any_sam: Sam):
    embedding = any_sam.encode(pictures(1))
    memory = any_sam.remember(embedding, torch.stack([torch.zeros(SIZE, SIZE), discs(1, 1, 0)[0, 0]])[None])
    absent = any_sam.model.no_object_pointer[0]
    torch.testing.assert_close(memory.pointers[0, 0], absent)
    assert not torch.allclose(memory.pointers[0, 1], absent, atol=1e-3)


def test_the_best_mask_is_the_one_with_the_highest_predicted_iou():
    logits = torch.arange(4.0)[None, None, :3, None, None].expand(1, 2, 3, 2, 2)
    iou = torch.tensor([[[0.1, 0.9, 0.3], [0.5, 0.2, 0.8]]])
    masks = Masks(logits, iou, torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2, 3, 4))
    assert masks.best[0, :, 0, 0].tolist() == [1, 2]
    assert masks.best_iou[0].tolist() == pytest.approx([0.9, 0.8])
    hidden = masks.suppressed().logits
    assert (hidden[0, 0] == logits[0, 0]).all()
    assert (hidden[0, 1] == ABSENT).all()


@torch.no_grad()
def test_pointers_of_absent_objects_say_so(any_sam: Sam):
    masks = any_sam.decode(any_sam.encode(pictures(1)), clicks_and_boxes(1, 2), multimask=True)
    masks = replace(masks, presence=torch.tensor([[3.0, -3.0]]))
    pointers = any_sam.pointers(masks)
    torch.testing.assert_close(pointers[0, 0], masks.pointers[0, 0, int(masks.iou[0, 0].argmax())])
    torch.testing.assert_close(pointers[0, 1], any_sam.model.no_object_pointer[0])


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.bfloat16, 0.3), (torch.float16, 0.05)])
def test_other_dtypes_run_all_verbs(any_sam: Sam, dtype: torch.dtype, tolerance: float):
    def answer(sam: Sam) -> Tensor:
        embedding = sam.encode(pictures(1).to(sam.dtype))
        memory = sam.remember(embedding, discs(1, 1, 2))
        masks = sam.decode(sam.recall(embedding, memory), clicks_and_boxes(1, 1), multimask=True)
        assert masks.logits.dtype == sam.dtype
        return masks.logits.float()

    single = answer(any_sam)
    other = answer(any_sam.to(dtype))
    assert other.isfinite().all()
    assert (other - single).abs().mean() <= tolerance * single.abs().mean()


def test_embeddings_are_indexed_joined_and_cut_off(any_sam: Sam):
    embedding = any_sam.encode(pictures(3).requires_grad_())
    part = embedding[torch.tensor([2, 0])]
    assert len(part) == 2
    torch.testing.assert_close(Embedding.cat([part[1:], part[:1]]).high1, embedding[[0, 2]].high1)
    assert part.low.requires_grad
    assert not part.detach().low.requires_grad
    assert part.to(torch.float64).high0.dtype == torch.float64
