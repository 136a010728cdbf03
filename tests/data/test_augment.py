"""Augmentation settings and the strong view, against Pillow and SciPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import ndimage

from maskwright.data.augment import Augmentation, Crop, _recolour, strong_view
from maskwright.data.geometry import random_matrix, resize_matrix
from maskwright.errors import MaskwrightError

torch.set_num_threads(1)


def _images(count: int = 4, side: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(MaskwrightError) as caught:
        Augmentation(flip=1.5, scale=(0.0, 2.0), shift=-1)
    assert "flip" in str(caught.value)
    assert "scale" in str(caught.value)
    assert "shift" in str(caught.value)
    assert "aspect" not in str(caught.value)


def test_matrix_is_the_random_matrix_of_the_settings():
    settings: dict[str, Any] = {
        "vertical_flip": 0.3,
        "rotate_deg": 20,
        "scale": (0.5, 1.5),
        "shift": 0.1,
        "aspect": 0.2,
    }
    augment = Augmentation(flip=0.5, **settings)
    matrix = augment.matrix((40, 30), 64, np.random.default_rng(3))
    np.testing.assert_array_equal(matrix, random_matrix((40, 30), 64, np.random.default_rng(3), flip=0.5, **settings))
    upright = augment.matrix((40, 30), 64, np.random.default_rng(3), tilt=False)
    assert upright[0, 1] == upright[1, 0] == 0
    still = Augmentation(flip=0, rotate_deg=0, scale=(1, 1), shift=0, aspect=0)
    np.testing.assert_allclose(still.matrix((40, 30), 64, np.random.default_rng(0)), resize_matrix((40, 30), 64))


def test_same_seed_same_view_and_range_is_kept():
    images = _images()
    before = images.clone()
    view = strong_view(images, 7, cutout_p=0.5)
    torch.testing.assert_close(view, strong_view(images, 7, cutout_p=0.5), rtol=0, atol=0)
    generator = torch.Generator().manual_seed(7)
    torch.testing.assert_close(view, strong_view(images, generator, cutout_p=0.5), rtol=0, atol=0)
    assert not torch.equal(view, strong_view(images, generator, cutout_p=0.5))
    assert view.min() >= 0
    assert view.max() <= 1
    assert torch.equal(images, before)
    assert strong_view(images.bfloat16(), 7).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(strong_view(images, 7, cutout_p=0.5), view, rtol=0, atol=0)


def test_images_do_not_influence_each_other():
    images = _images()
    changed = images.clone()
    changed[1:] = 0.5
    torch.testing.assert_close(strong_view(images, 3)[0], strong_view(changed, 3)[0], rtol=0, atol=0)
    same = images[:1].repeat(6, 1, 1, 1)
    views = strong_view(same, 3, jitter_p=1.0)
    assert len({round(view.mean().item(), 5) for view in views}) > 1


def test_nothing_happens_at_probability_zero():
    images = _images()
    torch.testing.assert_close(strong_view(images, 0, jitter_p=0, grey_p=0, blur_p=0), images, rtol=0, atol=1e-6)


def test_probabilities_are_met():
    images = _images(400, 4)
    grey = strong_view(images, 1, jitter_p=0, blur_p=0)
    share = (grey.std(dim=1).amax((1, 2)) < 1e-6).float().mean().item()
    assert 0.14 < share < 0.26
    jittered = strong_view(images, 1, grey_p=0, blur_p=0)
    share = ((jittered - images).abs().amax((1, 2, 3)) > 1e-5).float().mean().item()
    assert 0.74 < share < 0.86


@pytest.mark.parametrize(
    ("place", "enhancer"), [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)]
)
@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_factors_agree_with_pillow(place, enhancer, factor):
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = np.asarray(enhancer(Image.fromarray(array)).enhance(factor))
    factors = torch.ones(1, 3, dtype=torch.float64)
    factors[0, place] = factor
    images = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    still = torch.zeros(1, dtype=torch.float64)
    result = _recolour(images, factors, still, torch.tensor([False]))[0].permute(1, 2, 0).numpy()
    assert np.abs(result * 255 - expected).max() < 2


def test_hue_turns_keep_brightness_and_close_after_a_full_circle():
    images = 0.4 + 0.2 * _images()
    ones = torch.ones(4, 3, dtype=torch.float64)
    no = torch.zeros(4, dtype=torch.bool)
    angle = torch.full((4,), math.pi / 3, dtype=torch.float64)
    turned = _recolour(images, ones, angle, no)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close((turned * luma).sum(1), (images * luma).sum(1), atol=1e-5, rtol=0)
    assert (turned - images).abs().max() > 0.05
    torch.testing.assert_close(_recolour(images, ones, 6 * angle, no), images, atol=1e-5, rtol=0)


def test_blur_agrees_with_scipy():
    images = _images(2)
    view = strong_view(images, 0, jitter_p=0, grey_p=0, blur_p=1.0, blur_sigma=(1.3, 1.3))
    expected = ndimage.gaussian_filter(images.numpy(), (0, 0, 1.3, 1.3), mode="nearest", truncate=4 / 1.3)
    np.testing.assert_allclose(view.numpy(), expected, atol=1e-5)
    tiny = strong_view(_images(2, 3), 0, blur_p=1.0)
    assert tiny.shape == (2, 3, 3, 3)


def test_cutout_fills_one_rectangle_of_the_asked_size():
    images = _images(8, 60)
    view = strong_view(images, 2, jitter_p=0, grey_p=0, blur_p=0, cutout_p=1.0, cutout_area=(0.1, 0.1))
    cut = ((view - images).abs().amax(1) > 1e-5).numpy()
    for hit, before, after in zip(cut, images, view):
        rows, columns = np.nonzero(hit)
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert abs(area / 3600 - 0.1) < 0.02
        assert hit.sum() > 0.98 * area
        middle = after[:, int(np.median(rows)), int(np.median(columns))]
        torch.testing.assert_close(middle, before.mean((1, 2)), atol=1e-5, rtol=0)


@given(seed=st.integers(0, 10**6), x=st.floats(0, 200), y=st.floats(0, 120), side=st.sampled_from([40.0, 130.0, 260.0]))
def test_a_crop_about_an_object_shows_it_and_stays_inside_the_image(seed: int, x: float, y: float, side: float):
    crop = Crop(side, scale=(1.0, 1.0), centred=1.0, flip=0.5, vertical_flip=0.5, quarter_turns=True)
    matrix = crop.matrix((200, 120), 64, np.random.default_rng(seed), focus=(x, y))
    place = matrix[:, :2] @ (x, y) + matrix[:, 2]
    assert (place >= -1e-6).all()
    assert (place <= 64 + 1e-6).all()
    corners = matrix[:, :2] @ np.array([[0, 200, 200, 0], [0, 0, 120, 120]]) + matrix[:, 2:]
    low, high = corners.min(1), corners.max(1)
    for length in range(2):
        covers = low[length] <= 1e-6 and high[length] >= 64 - 1e-6
        is_inside = low[length] >= -1e-6 and high[length] <= 64 + 1e-6
        assert covers or is_inside
