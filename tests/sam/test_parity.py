"""``Sam`` against Meta's own SAM 2 code (`shared/parity`): every verb, float32, on the CPU, to 1e-4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskwright.sam.convert import convert
from maskwright.sam.prompts import PADDING, Prompts
from maskwright.sam.sam import Embedding, Sam

PARITY = Path(__file__).parents[3] / "shared" / "parity"
pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="the reference numbers (../shared/parity) are not here")


@pytest.fixture(scope="module")
def sam(tmp_path_factory) -> Sam:
    folder = tmp_path_factory.mktemp("official") / "small"
    convert(PARITY / "sam2_official_small.pt", folder)
    return Sam.load(folder)


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    with np.load(PARITY / "sam2_official_small_expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def embedding(sam: Sam, expected) -> Embedding:
    with torch.no_grad():
        return sam.neck(sam.backbone(expected["pixel_values"]))


@pytest.fixture
def prompts(expected) -> Prompts:
    # SAM's points are pixel indices; ours have the pixel's centre at +0.5.
    return Prompts(expected["points"][:, None] + 0.5, expected["labels"][:, None])


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def best(values: torch.Tensor, iou: torch.Tensor) -> torch.Tensor:
    """(B, M, ...) → (B, ...): the entry of the mask with the highest predicted IoU."""
    return values[torch.arange(len(values)), iou.argmax(-1)]


@torch.no_grad()
def test_encode(embedding, expected):
    close(embedding.high0, expected["fpn0"])
    close(embedding.high1, expected["fpn1"])
    close(embedding.low, expected["fpn2"])


@torch.no_grad()
def test_decode_three_masks(sam, embedding, prompts, expected):
    masks = sam.decode(embedding, prompts, multimask=True)
    suppressed = masks.suppressed()
    close(suppressed.logits[:, 0], expected["sam_multi_low_res_multimasks"])
    close(suppressed.best, expected["sam_multi_low_res_masks"])
    close(masks.iou[:, 0], expected["sam_multi_ious"])
    close(masks.presence, expected["sam_multi_object_score_logits"])
    close(sam.pointers(masks)[:, 0], expected["sam_multi_obj_ptr"])


@torch.no_grad()
def test_decode_one_mask(sam, embedding, prompts, expected):
    masks = sam.decode(embedding, prompts)
    close(masks.suppressed().logits[:, 0], expected["sam_single_low_res_multimasks"])
    close(masks.iou[:, 0], expected["sam_single_ious"])
    close(sam.pointers(masks)[:, 0], expected["sam_single_obj_ptr"])


@torch.no_grad()
def test_box_prompt_is_two_corner_labels(sam, embedding, prompts):
    corners = prompts.rows(slice(1, 2))
    assert corners.labels.tolist() == [[[2, 3]]]
    (x0, y0), (x1, y1) = corners.points[0, 0].tolist()
    box = Prompts.of_boxes(torch.tensor([[[x0 - 0.5, y0 - 0.5, x1 + 0.5, y1 + 0.5]]]))
    close(sam.decode(embedding[1:2], box).logits, sam.decode(embedding[1:2], corners).logits)


@torch.no_grad()
def test_decode_with_previous_logits(sam, embedding, prompts, expected):
    masks = sam.decode(embedding, prompts, expected["previous_logits"])
    close(masks.suppressed().logits[:, 0], expected["sam_previous_low_res_masks"])
    close(masks.iou[:, 0], expected["sam_previous_ious"])


@torch.no_grad()
def test_remember(sam, embedding, expected):
    memory = sam.remember(embedding[:1], expected["ref_mask"])
    close(memory.features[:, 0], expected["ref_maskmem_features"])
    close(memory.pointers[:, 0], expected["ref_obj_ptr"])


@torch.no_grad()
def test_recall_and_track(sam, embedding, expected):
    memory = sam.remember(embedding[:1], expected["ref_mask"])
    conditioned = sam.recall(embedding[2:], memory)
    close(conditioned.low, expected["conditioned_features"])
    masks = sam.decode(conditioned, Prompts.none(1), multimask=True)
    close(masks.suppressed().best, expected["track_low_res_masks"])
    close(sam.pointers(masks)[:, 0], expected["track_obj_ptr"])


@torch.no_grad()
def test_padding_prompt_changes_nothing_but_adds_the_padding_token(sam, embedding, prompts):
    padded = Prompts(
        torch.cat([prompts.points, torch.full((3, 1, 1, 2), 77.0)], 2),
        torch.cat([prompts.labels, torch.full((3, 1, 1), PADDING)], 2),
    )
    moved = Prompts(padded.points.clone(), padded.labels)
    moved.points[:, :, -1] = 5.0
    close(sam.decode(embedding, padded).logits, sam.decode(embedding, moved).logits)
