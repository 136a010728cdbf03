"""Weak labels lie where they must, keep their shares, and are the same for the same seed."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.formats import read
from maskwright.data.labels import Box, Kind, Labels, Mask, Point, Sample, Scribble, Tag
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.data.weaken import mask_to_boxes, mask_to_points, mask_to_scribbles, mask_to_tags, weaken
from maskwright.errors import DataError

SEMANTIC = Mask("m.png")
INSTANCE = Mask("m.png", "instance", {2: 3})
MASKS = arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 0, 0, 1, 1, 1, 2, 255])
)
BLOBS = st.integers(0, 10_000).map(
    lambda seed: (
        ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(90, 120)), 1 + seed % 7) > 0.01 * (seed % 5)
    ).astype(np.uint8)
)


def category_of(values: np.ndarray, mask: Mask) -> np.ndarray:
    if mask.kind == "semantic":
        return values.astype(int)
    return np.vectorize(lambda id: mask.categories.get(id, 1) if id else 0)(values.astype(int))


def places_along(scribble: Scribble) -> np.ndarray:
    """Dense points on the polyline, but for the corners of pixels that diagonal steps pass through."""
    points = np.array(scribble.points)
    if len(points) == 1:
        return points
    share = np.linspace(0, 1, 4 * 120)[:, None]
    dense = np.concatenate([a + (b - a) * share for a, b in pairwise(points)])
    return dense[np.abs(dense - np.rint(dense)).max(axis=1) > 1e-9]


@given(values=st.one_of(MASKS, BLOBS), mask=st.sampled_from([SEMANTIC, INSTANCE]))
@settings(max_examples=60, deadline=None)
def test_points_and_scribbles_lie_inside_their_category(values: np.ndarray, mask: Mask) -> None:
    if mask.kind == "instance":
        values = np.where(values == 255, 7, values)
    categories = category_of(values, mask)
    for scribble in mask_to_scribbles(values, mask):
        x, y = np.floor(places_along(scribble)).astype(int).T
        assert set(categories[y, x]) == {scribble.category}
    points = mask_to_points(values, mask)
    for point in points:
        assert (point.x % 1, point.y % 1) == (0.5, 0.5)
        assert categories[int(point.y), int(point.x)] == point.category
    present = set(np.unique(categories)) - {255}
    assert {point.category for point in points} == present
    assert {s.category for s in mask_to_scribbles(values, mask)} == present
    assert [tag.category for tag in mask_to_tags(values, mask)] == sorted(present - {0})


@given(values=MASKS)
@settings(max_examples=60, deadline=None)
def test_boxes_are_the_tight_boxes_of_the_parts(values: np.ndarray) -> None:
    expected = []
    for category in (1, 2):
        labelled, count = ndimage.label(values == category, np.ones((3, 3)))
        for number in range(1, count + 1):
            y, x = np.nonzero(labelled == number)
            expected.append(Box(x.min(), y.min(), x.max() + 1, y.max() + 1, category))
    assert set(mask_to_boxes(values, SEMANTIC, min_area=1)) == set(expected)


def test_small_parts_get_no_label_unless_they_are_all_there_is() -> None:
    values = np.zeros((20, 20), np.uint8)
    values[2:8, 2:8], values[15, 15], values[0, 18] = 1, 1, 2
    assert mask_to_boxes(values, SEMANTIC) == (Box(2, 2, 8, 8, 1), Box(18, 0, 19, 1, 2))
    assert len(mask_to_boxes(values, SEMANTIC, min_area=1)) == 3


def test_an_instance_is_one_object_even_where_it_is_cut_in_two() -> None:
    values = np.zeros((20, 30), np.uint16)
    values[5:10, 2:6], values[5:12, 20:28], values[0, 0] = 2, 2, 300
    assert mask_to_boxes(values, INSTANCE) == (Box(2, 5, 28, 12, 3), Box(0, 0, 1, 1, 1))
    points = mask_to_points(values, INSTANCE)
    assert [p.category for p in points] == [3, 1, 0]
    assert points[0].x > 20
    assert [s.category for s in mask_to_scribbles(values, INSTANCE)] == [3, 1, 0]


def test_the_point_is_innermost_and_the_background_point_is_far() -> None:
    values = np.zeros((40, 60), np.uint8)
    values[10:21, 10:21] = 1
    assert mask_to_points(values, SEMANTIC) == (Point(15.5, 15.5, 1), Point(59.5, 39.5, 0))


def test_the_scribble_runs_along_the_middle_of_a_bar_and_of_a_ring() -> None:
    bar = np.zeros((40, 200), np.uint8)
    bar[15:26, 20:180] = 1
    line = np.array(mask_to_scribbles(bar, SEMANTIC)[0].points)
    assert np.ptp(line[:, 0]) > 140
    middle = line[(line[:, 0] > 30) & (line[:, 0] < 170)]
    np.testing.assert_allclose(middle[:, 1], 20.5)
    y, x = np.mgrid[:300, :300]
    radius = np.hypot(x - 150, y - 150)
    ring = ((radius > 90) & (radius < 120)).astype(np.uint8)
    line = np.array(mask_to_scribbles(ring, SEMANTIC)[0].points)  # Large enough for the coarser grid.
    assert np.abs(np.hypot(*(line - 150.5).T) - 105).max() < 10
    assert np.abs(np.diff(line, axis=0)).sum() > 250


def test_no_object_and_nothing_but_object() -> None:
    empty, full = np.zeros((6, 8), np.uint8), np.ones((6, 8), np.uint8)
    assert mask_to_boxes(empty, SEMANTIC) == mask_to_tags(empty, SEMANTIC) == ()
    assert [p.category for p in mask_to_points(empty, SEMANTIC)] == [0]
    assert [s.category for s in mask_to_scribbles(empty, SEMANTIC)] == [0]
    assert [p.category for p in mask_to_points(full, SEMANTIC)] == [1]
    assert mask_to_tags(full, SEMANTIC) == (Tag(1),)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """24 training images, every sixth without an object; one without a mask; two for testing."""
    root, samples = tmp_path / "in", []
    (root / "images").mkdir(parents=True)
    for i in range(27):
        Image.new("RGB", (32, 24), (i, 0, 0)).save(root / "images" / f"{i}.png")
        values = np.zeros((24, 32), np.uint8)
        if i % 6:
            values[2:12, 3 : 8 + i % 9] = 1 + i % 2
        write_mask(root / "masks" / f"{i}.png", values)
        labels = Labels() if i == 24 else Labels(Mask(f"masks/{i}.png"))
        samples.append(Sample(str(i), f"images/{i}.png", "test" if i > 24 else "train", labels))
    return Dataset(root, ("background", "cat", "dog"), tuple(samples))


SHARES = {Kind.MASK: 0.1, Kind.BOX: 0.2, Kind.SCRIBBLE: 0.2, Kind.POINT: 0.2, Kind.TAG: 0.2, Kind.NONE: 0.1}


def test_shares_are_kept_and_other_images_untouched(dataset: Dataset, tmp_path: Path) -> None:
    weak = weaken(dataset, tmp_path / "out", SHARES, seed=1)
    masked = [s for s in weak.split("train") if s.id != "24"]
    kinds = Counter(sample.labels.kind for sample in masked)
    assert sum(kinds.values()) == 24
    assert all(abs(kinds[kind] - 24 * share) < 1 for kind, share in SHARES.items())
    assert all(sample.labels == sample.labels.only(sample.labels.kind) for sample in masked)
    assert weak[24].labels == Labels()
    assert weak[25].labels == Labels(Mask("masks/25.png"))
    assert check(weak) == []
    assert read(tmp_path / "out") == weak
    kept = {sample.id for sample in weak if sample.labels.mask}
    assert {path.stem for path in (tmp_path / "out" / "masks").iterdir()} == kept
    for sample in weak:
        values = read_mask(dataset.root / "masks" / f"{sample.id}.png")
        if sample.labels.boxes:
            assert sample.labels.boxes == mask_to_boxes(values, SEMANTIC)
        if sample.labels.tags:
            assert sample.labels.tags == mask_to_tags(values, SEMANTIC)


def test_the_seed_decides(dataset: Dataset, tmp_path: Path) -> None:
    first, again, other = (
        weaken(dataset, tmp_path / name, SHARES, seed) for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first.samples == again.samples
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()
    assert first.samples != other.samples


def test_mistakes_are_named(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shares \(mask: 0.5, box: 0.4\): must be within 0..1 and sum up to 1"):
        weaken(dataset, tmp_path / "a", {Kind.MASK: 0.5, Kind.BOX: 0.4}, 0)
    with pytest.raises(DataError, match="24 images should get a box or a tag, but only 20 hold an object"):
        weaken(dataset, tmp_path / "b", {Kind.BOX: 0.5, Kind.TAG: 0.5}, 0)
    with pytest.raises(DataError, match="no mask in split 'val'"):
        weaken(dataset, tmp_path / "c", SHARES, 0, split="val")
    with pytest.raises(DataError, match="is there already"):
        weaken(dataset, dataset.root, SHARES, 0)
    for name in ("1", "2"):
        (dataset.root / "masks" / f"{name}.png").unlink()
    with pytest.raises(DataError) as error:
        weaken(dataset, tmp_path / "d", SHARES, 0)
    assert len(error.value.problems) == 2
    assert not any((tmp_path / name).exists() for name in "abcd")
