"""A closer look: what comes back lies where it was cut out, to a fraction of a pixel; and it is the same one by one or in a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from maskwright.data.geometry import warp_maps
from maskwright.data.shapes import ellipse_radius, filled_boxes
from maskwright.sam.closer_look import (
    OUTSIDE,
    SMALLEST,
    Looks,
    boxes_of_answers,
    cut,
    look_closer,
    look_closer_at_clicks,
    window_matrices,
    windows,
)
from maskwright.sam.precompute import signature
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Embedding, Masks, Sam
from maskwright.sam.store import EmbeddingStore

SIDE = 64
NO_ROWS = torch.zeros(0, dtype=torch.long)


class Stand:
    """Stands in for a SAM: its embedding is the crop itself, and ``answer`` makes logits (N, S/4, S/4) of crop and prompts."""

    size = SIDE
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, answer) -> None:
        self.answer, self.encoded, self.multimask = answer, [], []

    def encode(self, images: Tensor) -> Embedding:
        self.encoded.append(len(images))
        return Embedding(images, images, images)

    def decode(self, embedding: Embedding, prompts: Prompts, previous=None, multimask=False) -> Masks:
        self.multimask.append(multimask)
        logits = self.answer(embedding.low, prompts, previous)[:, None, None]
        return Masks(logits, torch.full(logits.shape[:3], 0.75), logits.new_ones(len(logits), 1), logits)


def the_crop(crops: Tensor, prompts: Prompts, previous: Tensor | None) -> Tensor:
    """Answers with what it sees: the mean of the crop in each cell."""
    return F.avg_pool2d(crops[:, 0], 4)


def the_ellipse(crops: Tensor, prompts: Prompts, previous: Tensor | None) -> Tensor:
    """Answers with the ellipse inscribed in the box."""
    half = torch.tensor([-0.5, -0.5, 0.5, 0.5])
    return 1 - ellipse_radius(prompts.points[:, 0].flatten(1) + half, SIDE // 4, SIDE // 4, 4)


def look(answer, images: Tensor, rows: Tensor, boxes: Tensor, *args, **options) -> Looks:
    return look_closer(Stand(answer), images, rows, boxes, *args, **options)  # type: ignore[arg-type]


def ramp(width: int, height: int) -> Tensor:
    """(1, 3, height, width), linear in x and y: bilinear sampling reproduces it exactly."""
    x, y = torch.arange(width) + 0.5, (torch.arange(height) + 0.5)[:, None]
    return (0.3 * x - 0.2 * y + 1).expand(1, 3, height, width)


sides = st.integers(9, 120)
places = st.tuples(*[st.floats(-0.3, 1.3)] * 2, *[st.floats(0.01, 1.6)] * 2)
scales = st.sampled_from([1.0, 1.5, 2.0, 3.7])


def box_at(place: tuple[float, float, float, float], width: int, height: int) -> Tensor:
    """(1, 4): a box by its centre and size in shares of the image's; it may be larger than the image, or lie across its border."""
    x, y, w, h = place[0] * width, place[1] * height, place[2] * width, place[3] * height
    return torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])


# ---------------------------------------------------------------------------------------------------------- windows


@settings(deadline=None, max_examples=200)
@given(width=sides, height=sides, place=places, scale=scales)
def test_a_window_lies_on_the_image_and_holds_its_box(width, height, place, scale):
    box = box_at(place, width, height).clamp(min=0).minimum(torch.tensor([width, height] * 2))
    x0, y0, x1, y1 = windows(box, (width, height), scale)[0].tolist()
    assert x0 >= 0
    assert y0 >= 0
    assert x1 <= width + 1e-4
    assert y1 <= height + 1e-4
    side = max(SMALLEST, scale * (box[:, 2:] - box[:, :2]).max().item())
    assert x1 - x0 == pytest.approx(min(side, width), abs=1e-3)
    assert y1 - y0 == pytest.approx(min(side, height), abs=1e-3)
    assert torch.tensor([x0, y0]).le(box[0, :2] + 1e-4).all()
    assert torch.tensor([x1, y1]).ge(box[0, 2:] - 1e-4).all()


def test_windows_by_hand():
    boxes = torch.tensor([[40.0, 30, 60, 40], [0, 30, 20, 40], [90, 70, 100, 80], [0, 0, 100, 50], [50, 50, 50, 50]])
    assert windows(boxes, (100, 80), 2.0).tolist() == [
        [30, 15, 70, 55],  # a square about the box
        [0, 15, 40, 55],  # moved inwards
        [80, 60, 100, 80],  # in the corner
        [0, 0, 100, 80],  # no larger than the image
        [46, 46, 54, 54],  # never smaller than this
    ]


# -------------------------------------------------------------------------------------------------- there and back


@settings(deadline=None, max_examples=150)
@given(width=sides, height=sides, place=places, scale=scales)
def test_what_the_crop_shows_comes_back_to_where_it_was(width, height, place, scale):
    image, box = ramp(width, height), box_at(place, width, height)
    looks = look(the_crop, image, torch.tensor([0]), box, scale=scale, margin=None)
    back = looks.on_image((width, height))[0]
    # Sampling repeats an image's outermost half pixel, and a crop's outermost half cell. Large windows are cut from a reduced image.
    frame = looks.limits
    edge = 0.5 + 2 * (frame[:, 2:] - frame[:, :2]) / (SIDE // 4)
    inner = filled_boxes(frame + torch.cat([edge, -edge], 1), height, width)[0]
    exact = 1e-3 if max(width, height) < 1.4 * SIDE else 0.2
    assert torch.all((back - image[0, 0])[inner].abs() < exact)
    outside = ~filled_boxes(frame + torch.tensor([-0.01, -0.01, 0.01, 0.01]), height, width)[0]
    assert (back[outside] == OUTSIDE).all()


@settings(deadline=None, max_examples=150)
@given(width=st.integers(24, 120), height=st.integers(24, 120), place=places, scale=scales)
def test_an_ellipse_in_the_box_of_the_crop_is_the_ellipse_in_the_box_of_the_image(width, height, place, scale):
    box = box_at(place, width, height)
    looks = look(the_ellipse, torch.zeros(1, 3, height, width), torch.tensor([0]), box, scale=scale, margin=0.0)
    back = looks.on_image((width, height))[0]
    clipped = box.clamp(min=0).minimum(torch.tensor([width, height] * 2))
    inside = filled_boxes(clipped, height, width)[0]
    assert (back[~inside] == OUTSIDE).all()
    if ((clipped[:, 2:] - clipped[:, :2]) * looks.matrices[:, [0, 1], [0, 1]]).min() < 8:
        return  # Too thin for the crop's cells to show an ellipse.
    radius = ellipse_radius(clipped, height, width)[0]
    clear = inside & (radius - 1).abs().gt(0.25)
    assert ((back > 0) == (radius < 1))[clear].all()


def test_looks_at_originals_come_back_to_the_canvas():
    images, boxes = ramp(100, 40), torch.tensor([[10.0, 8, 40, 30]])
    looks = look(the_crop, images, torch.tensor([0]), boxes, margin=0.0)
    canvas = looks.resized((100, 40), 50).on_image((50, 50))[0]
    plain = F.interpolate(images[:, :1], (50, 50), mode="bilinear", align_corners=False)[0, 0]
    inside = filled_boxes(boxes * torch.tensor([0.5, 1.25, 0.5, 1.25]), 50, 50)[0]
    assert inside.sum() == 15 * 27
    assert ((canvas > OUTSIDE) == inside).all()
    assert (canvas - plain)[inside].abs().max() < 1e-3


def test_each_object_is_cut_from_its_own_image():
    images = torch.stack([torch.full((3, 40, 40), value) for value in (0.25, 0.5, 1.0)])
    boxes = torch.tensor([[5.0, 5, 15, 15]]).expand(4, 4)
    looks = look(the_crop, images, torch.tensor([2, 0, 1, 2]), boxes)
    assert looks.logits.mean((1, 2)).tolist() == [1.0, 0.25, 0.5, 1.0]
    assert looks.iou.tolist() == [0.75] * 4


def test_the_margin_bounds_the_answer_in_longer_sides_of_the_box():
    box = torch.tensor([[20.0, 20, 40, 30]])
    looks = look(the_crop, torch.ones(1, 3, 64, 64), torch.tensor([0]), box, scale=2.0, margin=0.1)
    assert torch.equal(looks.on_image((64, 64)) > 0, filled_boxes(torch.tensor([[18.0, 18, 42, 32]]), 64, 64))
    whole = look(the_crop, torch.ones(1, 3, 64, 64), torch.tensor([0]), box, scale=2.0, margin=None)
    assert torch.equal(whole.on_image((64, 64)) > 0, filled_boxes(torch.tensor([[10.0, 5, 50, 45]]), 64, 64))


# ---------------------------------------------------------------------------------------------------------- cutting


def test_a_crop_equals_pillows():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (50, 70), dtype=np.uint8)
    frame = (12.25, 7.5, 44.25, 39.5)
    crop = cut(
        torch.from_numpy(pixels / 255).float().expand(1, 3, -1, -1), NO_ROWS.new_zeros(1), torch.tensor([frame]), 64
    )
    pillow = Image.fromarray(pixels.astype(np.float32)).transform(
        (64, 64), Image.Transform.EXTENT, frame, Image.Resampling.BILINEAR
    )
    assert np.abs(crop[0, 0].numpy() * 255 - np.asarray(pillow)).max() < 0.01


def test_large_windows_do_not_alias():
    stripes = (torch.arange(512) % 2).float().expand(1, 3, 512, -1)
    frame = torch.tensor([[0.5, 0.5, 500.5, 500.5]])
    crop = cut(stripes, NO_ROWS.new_zeros(1), frame, 64)
    assert (crop[..., 2:-2] - 0.5).abs().max() < 0.05
    assert (warp_maps(stripes, window_matrices(frame, 64), 64) - 0.5).abs().max() > 0.4


# ------------------------------------------------------------------------------------------------------ a real model


@pytest.fixture
def some(tiny_sam: Sam) -> tuple[Sam, Tensor, Tensor, Tensor]:
    """A SAM, two images, and objects on them: small, large, at the border, larger than the image, outside of it."""
    images = torch.rand(2, 3, 90, 70, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor(
        [[10.0, 10, 20, 24], [0, 0, 60, 80], [66, 86, 70, 90], [-50, -50, 200, 200], [300, 300, 310, 310], [3, 3, 4, 4]]
    )
    return tiny_sam, images, torch.tensor([0, 1, 1, 0, 1, 0]), boxes


def test_a_batch_is_the_same_as_one_by_one(some):
    sam, images, rows, boxes = some
    clicks = Prompts.of_points(
        torch.tensor([[[[15.0, 15.0], [60.0, 80.0]]]]).expand(6, -1, -1, -1), torch.ones(6, 1, 2).long()
    )
    together = look_closer(sam, images, rows, boxes, clicks)
    chunks = look_closer(sam, images, rows, boxes, clicks, chunk=4)
    single = Looks.cat(
        [look_closer(sam, images, rows[n : n + 1], boxes[n : n + 1], clicks.rows(slice(n, n + 1))) for n in range(6)]
    )
    for other in (chunks, single):
        for name in ("logits", "iou", "matrices", "limits"):
            torch.testing.assert_close(getattr(other, name), getattr(together, name), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[2:4].on_image((70, 90)), together.on_image((70, 90))[2:4], rtol=0, atol=0)


def test_a_box_around_everything_is_answered_as_on_the_whole_image(some):
    sam, images, _, _ = some
    box = torch.tensor([[-5.0, 0, 70, 95]])
    looks = look_closer(sam, images, torch.tensor([1]), box, margin=None, ellipse=False)
    canvas = F.interpolate(images[1:], (64, 64), mode="bilinear", align_corners=False)
    answer = sam.decode(sam.encode(canvas), Prompts.of_boxes(torch.tensor([[[0.0, 0, 64, 64]]])))
    torch.testing.assert_close(looks.logits, answer.best[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(looks.iou, answer.best_iou[:, 0], rtol=1e-3, atol=1e-3)
    back = F.interpolate(answer.best, (90, 70), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(looks.on_image((70, 90)), back, rtol=1e-3, atol=1e-3)


def test_a_box_off_the_image_is_answered_with_nothing(some):
    sam, images, rows, boxes = some
    answers = look_closer(sam, images, rows, boxes).on_image((70, 90))
    assert answers.isfinite().all()
    assert (answers[4] == OUTSIDE).all()
    assert (answers[5] > OUTSIDE).any()


def test_nothing_asked_is_nothing_answered(some):
    sam, images, rows, boxes = some
    for options in ({}, {"clicks": Prompts.none(0), "previous": torch.zeros(0, 16, 16)}):
        looks = look_closer(sam, images, rows[:0], boxes[:0], **options)
        assert len(looks) == 0
        assert looks.on_image((70, 90)).shape == (0, 90, 70)
    assert boxes_of_answers(torch.zeros(0, 16, 16), Prompts.none(0), (70, 90)).shape == (0, 4)


def test_no_gradients_are_kept(some):
    sam, images, rows, boxes = some
    assert not look_closer(sam, images.requires_grad_(), rows, boxes).logits.requires_grad


# ---------------------------------------------------------------------------------------------------------- prompts


def test_clicks_move_with_the_crop_and_those_beyond_it_are_left_out():
    seen = []

    def note(crops: Tensor, prompts: Prompts, previous: Tensor | None) -> Tensor:
        seen.append(prompts)
        return the_crop(crops, prompts, previous)

    points = torch.tensor([[[[30.0, 30.0], [20.0, 25.0], [80.0, 30.0], [0.0, 0.0]]]])
    clicks = Prompts.of_points(points, torch.tensor([[[1, 0, 0, -1]]]))
    box = torch.tensor([[25.0, 26, 35, 34]])
    look(note, torch.zeros(1, 3, 100, 100), torch.tensor([0]), box, clicks, scale=2.0)
    # The window is 20..40 and 20..40, enlarged 3.2 times.
    assert seen[0].labels.tolist() == [[[1, 0, -1, -1, 2, 3]]]
    assert seen[0].points[0, 0, :2].tolist() == [[32, 32], [0, 16]]
    assert seen[0].points[0, 0, 4:].flatten().tolist() == pytest.approx([16.5, 19.7, 47.5, 44.3], abs=1e-4)
    look(note, torch.zeros(1, 3, 100, 100), torch.tensor([0]), box, clicks, scale=2.0, show_box=False)
    assert seen[1].labels.tolist() == [[[1, 0, -1, -1]]]


def test_an_earlier_answer_is_shown_in_the_crops_frame():
    earlier = ramp(100, 80)[0, :1, ::4, ::4].contiguous()  # (1, 20, 25) covers the image
    looks = look(
        lambda crops, prompts, previous: previous[:, 0],
        torch.zeros(1, 3, 80, 100),
        torch.tensor([0]),
        torch.tensor([[30.0, 30, 60, 50]]),
        previous=earlier,
    )
    expected = F.interpolate(earlier[None], (80, 100), mode="bilinear", align_corners=False)[0]
    inside = filled_boxes(torch.tensor([[30.0, 30, 60, 50]]), 80, 100)
    assert (looks.on_image((100, 80)) - expected)[inside].abs().max() < 1e-3


def test_a_box_brings_its_ellipse_unless_there_is_an_earlier_answer():
    hints = []

    def note(crops: Tensor, prompts: Prompts, previous: Tensor | None) -> Tensor:
        hints.append(previous)
        return the_crop(crops, prompts, previous)

    images, rows, box = torch.zeros(1, 3, 64, 64), torch.tensor([0]), torch.tensor([[16.0, 24, 48, 40]])
    click = Prompts.of_points(torch.full((1, 1, 1, 2), 32.0), torch.ones(1, 1, 1).long())
    look(note, images, rows, box, scale=2.0)
    look(note, images, rows, box, click, torch.ones(1, 16, 16), scale=2.0)
    look(note, images, rows, box, scale=2.0, ellipse=False)
    look(note, images, rows, box, click, show_box=False)
    ellipse, earlier, *none = hints
    # The window is the whole image: the box is as it was.
    assert torch.equal(ellipse[0, 0] > 0, ellipse_radius(box[0], 16, 16, 4) < 1)
    assert (ellipse.min(), ellipse.max() <= 4) == (-8, True)
    assert (earlier == 1).all()
    assert none == [None, None]


def test_the_box_of_an_answer_holds_the_clicks_on_the_object():
    logits = torch.full((3, 20, 20), -1.0)
    logits[0, 5:10, 10:12] = 1.0
    logits[2, 5:10, 10:12] = 1.0
    points = torch.tensor([[40.5, 30.5], [9.0, 9.0], [70.5, 22.0]])
    labels = torch.tensor([1, 1, 0])
    clicks = Prompts.of_points(points[:, None, None], labels[:, None, None])
    assert boxes_of_answers(logits, clicks, (80, 80)).tolist() == [[40, 20, 48, 40], [0, 0, 80, 80], [40, 20, 48, 40]]
    clicks = replace(clicks, labels=torch.ones_like(clicks.labels))
    assert boxes_of_answers(logits, clicks, (80, 80))[2].tolist() == [40, 20, 71, 40]


def test_a_click_is_asked_again_on_a_crop_around_its_first_answer():
    seen = []

    def note(crops: Tensor, prompts: Prompts, previous: Tensor | None) -> Tensor:
        seen.append(prompts)
        return the_crop(crops, prompts, previous)

    first = torch.full((1, 20, 20), -1.0)
    first[0, 5:10, 10:12] = 1.0  # pixels 20..40 and 40..48
    clicks = Prompts.of_points(torch.tensor([[[[44.5, 30.5], [2.0, 2.0]]]]), torch.tensor([[[1, 0]]]))
    stand = Stand(note)
    looks = look_closer_at_clicks(stand, ramp(80, 80), torch.tensor([0]), clicks, first)  # type: ignore[arg-type]
    # The window is 29..59 and 15..45.
    assert looks.limits.tolist() == [[29, 15, 59, 45]]
    assert seen[0].labels.tolist() == [[[1, -1]]]
    assert seen[0].points[0, 0, 0].tolist() == pytest.approx([15.5 * 64 / 30, 15.5 * 64 / 30], abs=1e-4)
    assert stand.multimask == [True]
    inside = filled_boxes(torch.tensor([[33.0, 19, 55, 41]]), 80, 80)
    assert (looks.on_image((80, 80)) - ramp(80, 80)[0, 0])[inside].abs().max() < 1e-3


def test_a_look_needs_a_prompt_and_a_store_its_files(some, tmp_path: Path):
    sam, images, rows, boxes = some
    with pytest.raises(ValueError, match="show the box, or give clicks"):
        look_closer(sam, images, rows, boxes, show_box=False)
    store = EmbeddingStore(tmp_path, signature(sam))
    with pytest.raises(ValueError, match="the file of each of the 2 images, not 1"):
        look_closer(sam, images, rows, boxes, store=store, files=[b"one"])


# ------------------------------------------------------------------------------------------- the store


def test_a_stored_crop_is_not_encoded_again_and_answers_the_same(some, tmp_path: Path, monkeypatch):
    sam, images, rows, boxes = some
    encoded = []
    encode = sam.encode
    monkeypatch.setattr(sam, "encode", lambda crops: encoded.append(len(crops)) or encode(crops))
    plain = look_closer(sam, images, rows, boxes)
    encoded.clear()
    store, files = EmbeddingStore(tmp_path, signature(sam)), [b"first", b"second"]
    first = look_closer(sam, images, rows, boxes, store=store, files=files)
    # Two of the windows are the same corner.
    assert sum(encoded) == 5
    fresh = EmbeddingStore(tmp_path, signature(sam))
    again = look_closer(sam, images, rows.flip(0), boxes.flip(0), store=fresh, files=files)
    assert sum(encoded) == 5
    torch.testing.assert_close(first.logits, plain.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.logits.flip(0), plain.logits, rtol=1e-4, atol=1e-4)
    # Another window, another image, another resolution of the image: each is another crop.
    look_closer(sam, images, rows[:1], boxes[:1], scale=2.0, store=fresh, files=files)
    look_closer(sam, images, 1 - rows[:1], boxes[:1], store=fresh, files=files)
    look_closer(sam, images[..., :-1], rows[:1], boxes[:1], store=fresh, files=files)
    assert sum(encoded) == 8


def test_equal_crops_of_one_batch_are_encoded_once(some, tmp_path: Path, monkeypatch):
    sam, images, rows, boxes = some
    encoded = []
    encode = sam.encode
    monkeypatch.setattr(sam, "encode", lambda crops: encoded.append(len(crops)) or encode(crops))
    looks = look_closer(
        sam,
        images,
        rows[[0, 0, 1]],
        boxes[[0, 0, 1]],
        store=EmbeddingStore(tmp_path, signature(sam)),
        files=[b"first", b"second"],
    )
    assert encoded == [2]
    assert torch.equal(looks.logits[0], looks.logits[1])


def test_keys_of_crops_differ_from_those_of_images(tiny_sam: Sam, tmp_path: Path):
    store = EmbeddingStore(tmp_path, signature(tiny_sam))
    keys = [
        store.key(b"image"),
        store.key(b"image", [1, 2.0]),
        store.key(b"image", [1, 2.5]),
        store.key(b"other", [1, 2.0]),
    ]
    assert len(set(keys)) == 4
    assert store.key(b"image", [1, 2.0]) == keys[1]
    other = EmbeddingStore(tmp_path / "other", replace(signature(tiny_sam), weights="0" * 64))
    assert other.key(b"image", [1, 2.0]) != keys[1]
