"""The affine: against hand-worked cases, SciPy, Pillow and linear ramps, which bilinear sampling reproduces exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from maskwright.data.geometry import (
    compose,
    inside_map,
    invert,
    random_matrix,
    resize_matrix,
    unwarp_logits,
    warp_box,
    warp_image,
    warp_maps,
    warp_mask,
    warp_points,
)
from maskwright.data.labels import IGNORE

torch.set_num_threads(1)

EVERYTHING: dict[str, Any] = {
    "flip": 0.5,
    "vertical_flip": 0.5,
    "quarter_turns": True,
    "rotate_deg": 30.0,
    "scale": (0.6, 1.6),
    "shift": 0.2,
    "aspect": 0.3,
}
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(8, 90)


def _centres(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return x, y


def _ramp(width: int, height: int) -> np.ndarray:
    x, y = _centres(width, height)
    return 0.7 * x - 0.4 * y + 3


def test_resize_maps_frame_corners_to_canvas_corners():
    matrix = resize_matrix((40, 10), 20)
    moved = warp_points(np.array([[0, 0], [40, 10], [20, 5], [0.5, 0.5]]), matrix)
    np.testing.assert_allclose(moved, [[0, 0], [20, 20], [10, 10], [0.25, 1.0]])


@given(seeds, sides, sides)
@settings(max_examples=60, deadline=None)
def test_invert_and_compose_are_exact_in_numpy_and_torch(seed, width, height):
    generator = np.random.default_rng(seed)
    one, two = (random_matrix((width, height), 64, generator, **EVERYTHING) for _ in range(2))
    np.testing.assert_allclose(compose(invert(one), one), np.eye(2, 3), atol=1e-9)
    points = generator.random((5, 2)) * 50
    np.testing.assert_allclose(warp_points(points, compose(two, one)), warp_points(warp_points(points, one), two))
    pair = torch.from_numpy(np.stack([one, two]))
    torch.testing.assert_close(compose(pair, invert(pair)), torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3))
    np.testing.assert_array_equal(invert(pair).numpy(), invert(np.stack([one, two])))


def test_compose_keeps_its_arguments():
    one, two = resize_matrix((4, 4), 8), np.array([[1.0, 0, 5], [0, 1, 6]])
    np.testing.assert_array_equal(compose(two, one), [[2, 0, 5], [0, 2, 6]])
    np.testing.assert_array_equal(one, [[2, 0, 0], [0, 2, 0]])


@given(seeds, sides, sides)
@settings(max_examples=80, deadline=None)
def test_a_point_inside_a_region_stays_inside(seed, width, height):
    generator = np.random.default_rng(seed)
    canvas = 64
    matrix = random_matrix((width, height), canvas, generator, **EVERYTHING)
    point = generator.random(2) * (width, height)
    x, y = _centres(width, height)
    # Wider than a pixel of either frame, so that the nearest pixel of either lies in the region.
    reach = 1.5 + 1.5 / np.linalg.svd(matrix[:, :2], compute_uv=False).min()
    region = ((x - point[0]) ** 2 + (y - point[1]) ** 2 <= reach**2).astype(np.uint8)
    column, row = np.floor(warp_points(point[None], matrix)[0]).astype(int)
    if 0 <= column < canvas and 0 <= row < canvas:
        assert warp_mask(region, matrix, canvas)[row, column] in (1, IGNORE)
        if inside_map((width, height), matrix, canvas)[row, column]:
            assert warp_mask(region, matrix, canvas)[row, column] == 1


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        ({"flip": 1.0}, lambda a: a[:, ::-1]),
        ({"vertical_flip": 1.0}, lambda a: a[::-1]),
        ({"flip": 1.0, "vertical_flip": 1.0}, lambda a: a[::-1, ::-1]),
        ({}, lambda a: a),
    ],
)
def test_flips_are_exact(settings_, expected):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    mask = generator.integers(0, 65536, (48, 48)).astype(np.uint16)
    matrix = random_matrix((48, 48), 48, generator, **settings_)
    warped, inside = warp_image(image, matrix, 48)
    np.testing.assert_array_equal(warped, expected(image))
    assert inside.all()
    np.testing.assert_array_equal(warp_mask(mask, matrix, 48), expected(mask))


def test_quarter_turns_are_exact_and_all_occur():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    seen = set()
    for seed in range(40):
        matrix = random_matrix((32, 32), 32, np.random.default_rng(seed), quarter_turns=True)
        warped, inside = warp_image(image, matrix, 32)
        turns = [k for k in range(4) if np.array_equal(warped, np.rot90(image, k))]
        assert len(turns) == 1
        assert inside.all()
        seen |= set(turns)
    assert seen == {0, 1, 2, 3}


@given(seeds, st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_boxes_equal_the_boxes_of_the_masks_after_flips_and_turns(seed, factor):
    generator = np.random.default_rng(seed)
    width, height = 24, 16
    (x0, x1), (y0, y1) = (np.sort(generator.choice(side + 1, 2, replace=False)) for side in (width, height))
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y0:y1, x0:x1] = 1
    canvas = 48 * factor
    matrix = random_matrix((width, height), canvas, generator, flip=0.5, vertical_flip=0.5, quarter_turns=True)
    rows, columns = np.nonzero(warp_mask(mask, matrix, canvas) == 1)
    boxes, visible = warp_box(np.array([[x0, y0, x1, y1]]), matrix, canvas)
    np.testing.assert_allclose(boxes[0], [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], atol=1e-9)
    np.testing.assert_allclose(visible, 1)


def test_box_visibility_by_hand():
    matrix = np.array([[1.0, 0, -5], [0, 1, 0]])
    boxes, visible = warp_box(np.array([[0, 0, 10, 4], [0, 0, 4, 4], [6, 6, 30, 14], [8, 8, 8, 9]]), matrix, 10)
    np.testing.assert_allclose(boxes[[0, 2]], [[0, 0, 5, 4], [1, 6, 10, 10]])
    np.testing.assert_allclose(visible, [0.5, 0, 9 * 4 / (24 * 8), 0])
    assert warp_box(np.zeros((0, 4)), matrix, 10)[0].shape == (0, 4)


def test_a_tilted_box_grows_as_documented():
    matrix = random_matrix((100, 100), 100, np.random.default_rng(0), rotate_deg=0)
    angle = math.radians(10)
    tilt = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])
    boxes, _ = warp_box(np.array([[40, 40, 60, 60]]), compose(tilt, matrix), 100)
    assert (boxes[0, 2] - boxes[0, 0]) / 20 == pytest.approx(1.16, abs=0.005)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_masks_survive_integer_factors(factor):
    mask = np.random.default_rng(1).integers(0, 9, (20, 20), dtype=np.uint8)
    large = warp_mask(mask, resize_matrix((20, 20), 20 * factor), 20 * factor)
    np.testing.assert_array_equal(large, mask.repeat(factor, 0).repeat(factor, 1))
    np.testing.assert_array_equal(warp_mask(large, resize_matrix(large.shape, 20), 20), mask)
    maps = torch.from_numpy(mask)[None, None]
    up = torch.from_numpy(resize_matrix((20, 20), 20 * factor))[None]
    np.testing.assert_array_equal(warp_maps(maps, up, 20 * factor, mode="nearest")[0, 0], large)


@given(seeds, st.sampled_from([np.uint8, np.uint16, np.int64]))
@settings(max_examples=40, deadline=None)
def test_nearest_maps_agree_with_masks(seed, dtype):
    generator = np.random.default_rng(seed)
    masks = generator.integers(0, 200, (2, 30, 40)).astype(dtype)
    matrices = np.stack([random_matrix((40, 30), 36, generator, **EVERYTHING) for _ in range(2)])
    expected = np.stack([warp_mask(mask, matrix, 36, fill=7) for mask, matrix in zip(masks, matrices)])
    maps = torch.from_numpy(masks.astype(np.int64))[:, None]
    moved = warp_maps(maps, torch.from_numpy(matrices).float(), 36, mode="nearest", fill=7)
    assert moved.dtype == torch.int64
    # Places within float32 noise of a pixel's border may go either way.
    assert (moved[:, 0].numpy() != expected).mean() < 0.002


def test_bilinear_maps_agree_with_scipy():
    generator = np.random.default_rng(3)
    maps = generator.random((2, 1, 25, 35))
    matrices = np.stack([random_matrix((35, 25), 40, generator, **EVERYTHING) for _ in range(2)])
    moved = warp_maps(torch.from_numpy(maps), torch.from_numpy(matrices), (40, 40), fill=-1).numpy()
    for plane, matrix, result in zip(maps[:, 0], matrices, moved[:, 0]):
        (a, b, c), (d, e, f) = invert(matrix)
        # SciPy counts rows before columns, and pixel centres as integers.
        offset: Any = (d / 2 + e / 2 + f - 0.5, a / 2 + b / 2 + c - 0.5)
        linear: Any = np.array([[e, d], [b, a]])
        reference = ndimage.affine_transform(plane, linear, offset, (40, 40), order=1, mode="nearest")
        inside = inside_map((35, 25), matrix, 40)
        np.testing.assert_allclose(result[inside], reference[inside], atol=1e-9)
        assert (result[ndimage.binary_dilation(inside, iterations=2) == 0] == -1).all()


@given(seeds, sides, sides)
@settings(max_examples=40, deadline=None)
def test_unwarp_is_the_inverse(seed, width, height):
    generator = np.random.default_rng(seed)
    matrix = random_matrix((width, height), 64, generator, **EVERYTHING)
    x, y = _centres(64, 64)
    back = invert(matrix)
    source = warp_points(np.stack([x.ravel(), y.ravel()], 1), back)
    ramp = (0.7 * source[:, 0] - 0.4 * source[:, 1] + 3).reshape(1, 1, 64, 64)
    (result,) = unwarp_logits(torch.from_numpy(ramp), torch.from_numpy(matrix)[None], [(width, height)], fill=np.nan)
    assert result.shape == (1, height, width)
    places = warp_points(np.stack([c.ravel() for c in _centres(width, height)], 1), matrix).reshape(height, width, 2)
    known = ((places >= 0.5) & (places <= 63.5)).all(-1)
    np.testing.assert_allclose(result[0].numpy()[known], _ramp(width, height)[known], atol=1e-6)
    gone = ((places < -0.01) | (places > 64.01)).any(-1)
    assert result[0].isnan().numpy()[gone].all()


def test_unwarp_groups_sizes_and_takes_coarse_logits():
    sizes = [(40, 30), (20, 25), (40, 30)]
    matrices = torch.from_numpy(np.stack([resize_matrix(size, 64) for size in sizes])).float()
    x, y = _centres(16, 16)
    coarse = torch.from_numpy(np.stack([x * 4 * w / 64 + 2 * y * 4 * h / 64 for w, h in sizes]))[:, None].float()
    results = unwarp_logits(coarse, matrices, torch.tensor(sizes), canvas=64)
    assert [tuple(result.shape) for result in results] == [(1, h, w) for w, h in sizes]
    for result, (w, h) in zip(results, sizes):
        columns, rows = _centres(w, h)
        np.testing.assert_allclose(result[0, 3:-3, 3:-3], (columns + 2 * rows)[3:-3, 3:-3], atol=1e-3)


def test_resize_there_and_back_is_identity_for_a_smooth_image():
    x, y = _centres(120, 90)
    smooth = 0.5 + 0.25 * np.sin(x / 9) * np.cos(y / 11)
    image = np.repeat((smooth * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    matrix = resize_matrix((120, 90), 256)
    canvas, _ = warp_image(image, matrix, 256)
    pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 255
    (back,) = unwarp_logits(pixels, torch.from_numpy(matrix)[None], [(120, 90)])
    assert np.abs(back[0].numpy() - image[..., 0] / 255).max() < 0.01


def test_maps_move_from_plain_to_augmented_canvas():
    generator = np.random.default_rng(5)
    plain = torch.from_numpy(resize_matrix((50, 40), 32))[None].repeat(3, 1, 1).float()
    augmented = torch.stack(
        [torch.from_numpy(random_matrix((50, 40), 48, generator, **EVERYTHING)).float() for _ in range(3)]
    )
    x, y = (torch.from_numpy(c).float() for c in _centres(32, 32))
    ramp = (2 * x - y).expand(3, 1, 32, 32)
    moved = warp_maps(ramp, compose(augmented, invert(plain)), 48, fill=1e6)
    for result, matrix in zip(moved, augmented):
        places = np.stack([c.ravel() for c in _centres(48, 48)], 1)
        on_plain = warp_points(warp_points(places, invert(matrix.double().numpy())), resize_matrix((50, 40), 32))
        known = ((on_plain > 0.6) & (on_plain < 31.4)).all(1)
        expected = 2 * on_plain[:, 0] - on_plain[:, 1]
        np.testing.assert_allclose(result.ravel().numpy()[known], expected[known], atol=2e-3)


def test_maps_carry_gradients_and_keep_their_dtype():
    maps = torch.rand(1, 2, 8, 8, requires_grad=True)
    warp_maps(maps, torch.eye(2, 3)[None], 8).sum().backward()
    torch.testing.assert_close(maps.grad, torch.ones_like(maps))
    half = warp_maps(torch.rand(1, 1, 8, 8).bfloat16(), torch.eye(2, 3)[None], 8)
    assert half.dtype == torch.bfloat16


def test_shrinking_is_antialiased():
    stripes = np.zeros((128, 128, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    canvas, _ = warp_image(stripes, resize_matrix((128, 128), 16), 16)
    assert np.abs(canvas.astype(int) - 127).max() <= 8  # aliased stripes would be 0 or 255
    expected = np.asarray(Image.fromarray(stripes).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(canvas, expected)
    tilted = random_matrix((128, 128), 16, np.random.default_rng(2), rotate_deg=30)
    canvas, inside = warp_image(stripes, tilted, 16)
    assert np.abs(canvas[inside].astype(int) - 127).max() <= 8


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_image_warp_follows_the_matrix(seed):
    generator = np.random.default_rng(seed)
    x, y = _centres(60, 50)
    image = np.stack([x * 4, y * 5, 255 - x * 4], -1).round().astype(np.uint8)
    matrix = random_matrix((60, 50), 40, generator, **EVERYTHING)
    canvas, inside = warp_image(image, matrix, 40)
    places = warp_points(np.stack([c.ravel() for c in _centres(40, 40)], 1), invert(matrix)).reshape(40, 40, 2)
    known = ((places > 4) & (places < (56, 46))).all(-1)
    expected = np.stack([places[..., 0] * 4, places[..., 1] * 5, 255 - places[..., 0] * 4], -1)
    assert np.abs(canvas[known] - expected[known]).max(initial=0) < 2.5
    np.testing.assert_array_equal(inside, ((places >= 0) & (places < (60, 50))).all(-1))


def test_outside_is_the_mean_colour():
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    image[:10] = (200, 100, 50)
    matrix = np.array([[1.0, 0, 10], [0, 1, 0]])
    canvas, inside = warp_image(image, matrix, 20)
    assert inside[:, 10:].all()
    assert not inside[:, :10].any()
    assert (canvas[:, :10] == (100, 50, 25)).all()
    np.testing.assert_array_equal(canvas[:, 10:], image[:, :10])


def test_settings_do_not_shift_each_others_draws():
    flipped, plain = (random_matrix((9, 9), 9, np.random.default_rng(4), shift=0.1, flip=p) for p in (1.0, 0.0))
    mirror = np.array([[-1.0, 0, 9], [0, 1, 0]])
    np.testing.assert_allclose(flipped, compose(plain, mirror))
