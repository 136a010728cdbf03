"""Windows cover an image on one grid whatever area is asked for; blended logits are a weighted mean, the same area by area."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from maskwright.engine.sliding import Slide, areas_of, blended, mask_of, reader_of, taper
from maskwright.errors import MaskwrightError

LENGTHS = st.integers(1, 90)
SIDES, OVERLAPS = st.integers(1, 40), st.floats(0, 0.9)


@given(LENGTHS, LENGTHS, SIDES, OVERLAPS, st.data())
def test_windows_of_an_area_are_those_of_the_image_that_show_it(
    width: int, height: int, side: int, overlap: float, data: st.DataObject
) -> None:
    slide = Slide.of((width, height), side, overlap)
    every = slide.windows((0, 0, width, height))
    covered = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in every:
        assert (x1 - x0, y1 - y0) == (min(side, width), min(side, height))
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    assert len(set(every)) == len(every)
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    some = slide.windows((x0, y0, x1, y1))
    assert some == [w for w in every if w[0] < x1 and w[2] > x0 and w[1] < y1 and w[3] > y0]


@given(LENGTHS, LENGTHS, st.integers(1, 40))
def test_areas_tile_the_image(width: int, height: int, side: int) -> None:
    counts = np.zeros((height, width), int)
    for x0, y0, x1, y1 in areas_of((width, height), side):
        counts[y0:y1, x0:x1] += 1
    assert (counts == 1).all()


def brightness(windows: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Logits that depend on the whole window, so that windows disagree."""
    rows = [torch.from_numpy(one).float().mean(-1) + one.mean() for one in windows]
    return torch.stack([torch.stack([row, -row]) for row in rows])


def test_blending_is_the_weighted_mean_of_the_windows() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    slide = Slide.of((70, 50), 16, 0.4)
    total, weights = np.zeros((2, 50, 70)), np.zeros((50, 70))
    for window in slide.windows((0, 0, 70, 50)):
        x0, y0, x1, y1 = window
        (logits,) = brightness([image[y0:y1, x0:x1]]).numpy()
        for y in range(y0, y1):
            for x in range(x0, x1):
                # How far from the nearer border, as a share of half the window.
                weight = min(x + 0.5 - x0, x1 - x - 0.5) / 8 * min(y + 0.5 - y0, y1 - y - 0.5) / 8
                total[:, y, x] += weight * logits[:, y - y0, x - x0]
                weights[y, x] += weight
    whole = blended(brightness, reader_of(image), slide, (0, 0, 70, 50), batch=3)
    assert np.allclose(whole, total / weights, atol=1e-3)
    for area in areas_of((70, 50), 13):
        x0, y0, x1, y1 = area
        part = blended(brightness, reader_of(image), slide, area, batch=5)
        assert torch.allclose(part, whole[:, y0:y1, x0:x1], atol=1e-3)


def test_low_logits_are_enlarged_and_small_images_are_one_window() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    ramp = torch.arange(4.0).expand(1, 1, 2, 4)
    found = blended(
        lambda windows: ramp.expand(len(windows), -1, -1, -1), reader_of(image), Slide.of((20, 10), 64), (0, 0, 20, 10)
    )
    expected = torch.nn.functional.interpolate(ramp, (10, 20), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(found, expected)


def test_weights_never_vanish() -> None:
    assert all(taper(length).min() > 0 for length in range(1, 40))


def test_mask_of_logits() -> None:
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]])
    found = mask_of(logits)
    assert found.mask.tolist() == [[0, 1]]
    assert found.pixels.tolist() == [1, 1, 0]
    assert found.certainty == pytest.approx([*logits.softmax(0).amax(0)[0].tolist(), 0])


def test_an_overlap_that_cannot_be() -> None:
    with pytest.raises(MaskwrightError, match=r"--overlap 1: must lie in 0\.\.0\.9"):
        Slide.of((10, 10), 5, 1.0)
