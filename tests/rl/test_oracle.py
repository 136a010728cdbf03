"""The oracle's clicks against a slow reference that says in SciPy's words what RITM's code does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from maskwright.rl import oracle
from maskwright.rl.oracle import next_click, squared_distance


def reference_click(prediction, truth, clicked):
    """RITM's get_next_click for one image: point or None, label."""
    depths = []
    for error in (truth & ~prediction, prediction & ~truth):
        depth = ndimage.distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1]
        depths.append(depth * ~clicked)
    missing, excess = depths
    positive = missing.max() > excess.max()
    chosen = missing if positive else excess
    if chosen.max() == 0:
        return None, int(positive)
    y, x = np.argwhere(chosen == chosen.max())[0]
    return (x + 0.5, y + 0.5), int(positive)


def assert_equal_reference(prediction, truth, clicked):
    points, labels, valid = next_click(*(torch.from_numpy(m) for m in (prediction, truth, clicked)))
    assert points.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert (points.shape, labels.shape, valid.shape) == ((len(truth), 2), (len(truth),), (len(truth),))
    for n in range(len(truth)):
        point, label = reference_click(prediction[n], truth[n], clicked[n])
        assert bool(valid[n]) == (point is not None)
        if point is not None:
            assert (tuple(points[n].tolist()), int(labels[n])) == (point, label)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))
three_maps = shapes.flatmap(lambda shape: st.tuples(*[arrays(np.bool_, shape)] * 3))


@settings(max_examples=150, deadline=None)
@given(three_maps)
def test_clicks_equal_the_reference_on_any_maps(maps) -> None:
    assert_equal_reference(*maps)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(48, 48), (31, 64), (70, 17)])
def test_clicks_equal_the_reference_on_blobs(seed: int, shape: tuple[int, int]) -> None:
    generator = np.random.default_rng([seed, *shape])
    noise = generator.standard_normal((2, 5, *shape))
    prediction, truth = (ndimage.gaussian_filter(noise, (0, 0, 4, 4)) > 0.01) & (generator.random((1, 5, 1, 1)) < 0.9)
    assert_equal_reference(prediction, truth, generator.random(truth.shape) < 0.05)


@settings(max_examples=100, deadline=None)
@given(shapes.flatmap(lambda shape: arrays(np.bool_, shape)))
def test_distances_are_exact(regions) -> None:
    expected = [ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1] ** 2 for region in regions]
    assert np.array_equal(squared_distance(torch.from_numpy(regions)).numpy(), np.rint(expected))


@pytest.mark.parametrize("side", [1, 2, 7, 64])
def test_a_region_that_fills_the_image_ends_at_its_border(side: int) -> None:
    filled = torch.ones(1, side, side, dtype=torch.bool)
    assert int(squared_distance(filled).max()) == ((side + 1) // 2) ** 2
    points, labels, valid = next_click(~filled, filled)
    middle = (side - 1) // 2 + 0.5
    assert (points.tolist(), labels.tolist(), valid.tolist()) == ([[middle, middle]], [1], [True])


def test_a_border_object_is_clicked_away_from_the_border() -> None:
    truth = torch.zeros(1, 9, 9, dtype=torch.bool)
    truth[:, :3, :5] = True
    points, labels, _ = next_click(torch.zeros_like(truth), truth)
    # The three middle pixels of its middle row are two pixels from the outside; the first of them wins.
    assert (points.tolist(), labels.tolist()) == ([[1.5, 1.5]], [1])


def test_too_much_is_clicked_away_and_one_pixel_is_found() -> None:
    truth, prediction = torch.zeros(2, 2, 8, 8, dtype=torch.bool)
    truth[0, 2, 5] = True
    prediction[0, 5:8, 0:3] = True
    truth[1, 6, 7] = True
    points, labels, valid = next_click(prediction, truth)
    assert points.tolist() == [[1.5, 6.5], [7.5, 6.5]]
    assert labels.tolist() == [0, 1]
    assert valid.all()


def test_equally_deep_errors_get_a_negative_click() -> None:
    truth, prediction = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    truth[0, 0, 0] = prediction[0, 7, 7] = True
    points, labels, _ = next_click(prediction, truth)
    assert (points.tolist(), labels.tolist()) == ([[7.5, 7.5]], [0])


def test_nothing_is_left_to_click() -> None:
    truth = torch.zeros(3, 6, 6, dtype=torch.bool)
    truth[1:, 2, 3] = True
    prediction, clicked = truth.clone(), torch.zeros_like(truth)
    prediction[2] = False
    clicked[2, 2, 3] = True  # The only wrong pixel was clicked before.
    assert next_click(prediction, truth, clicked)[2].tolist() == [False] * 3
    assert next_click(prediction, truth)[2].tolist() == [False, False, True]
    empty = torch.zeros(0, 6, 6, dtype=torch.bool)
    assert [part.shape for part in next_click(empty, empty)] == [(0, 2), (0,), (0,)]


def test_clicks_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    truth, prediction = torch.rand(2, 7, 20, 24, generator=generator) < 0.7
    whole = next_click(prediction, truth)
    monkeypatch.setattr(oracle, "CHUNK_BYTES", 20 * 24 * 28 * 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, next_click(prediction, truth)))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 4, 5, dtype=torch.bool), torch.zeros(2, 4, 4), torch.zeros(4, 4, dtype=torch.bool)]
)
def test_other_shapes_and_dtypes_are_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"equal shapes \(N, H, W\) of bool"):
        next_click(wrong, torch.zeros(2, 4, 4, dtype=torch.bool))
