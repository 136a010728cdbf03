"""Instance masks from files to batches, and random crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskwright.data.augment import Crop
from maskwright.data.dataset import Dataset
from maskwright.data.geometry import warp_points
from maskwright.data.instances import InstanceLoader, Instances, is_labelled, read_ids, refuse_semantic
from maskwright.data.labels import Box, Kind, Labels, Mask, Point, Sample, Scribble
from maskwright.data.mask_files import write_mask
from maskwright.errors import DataError, MaskwrightError

SIDE = 32


def make(folder: Path, ids: np.ndarray, categories: dict[int, int] | None = None, kind="instance") -> Dataset:
    """Two samples of one image: one with an instance mask, one with a box, a click and a scribble."""
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((*ids.shape, 3), 90, np.uint8)).save(folder / "image.png")
    write_mask(folder / "mask.png", ids.astype(np.uint16))
    labelled = Labels(Mask("mask.png", kind, categories or {}))
    weak = Labels(
        boxes=(Box(2, 2, 10, 12, 1),), points=(Point(20.5, 20.5, 2),), scribbles=(Scribble(((1, 1), (30, 30)), 1),)
    )
    samples = (Sample("a", "image.png", labels=labelled), Sample("b", "image.png", labels=weak))
    return Dataset(folder, ("background", "cell", "dot"), samples)


def two_objects() -> np.ndarray:
    ids = np.zeros((SIDE, SIDE), np.uint16)
    ids[2:12, 2:12], ids[20:28, 16:30] = 7, 300
    return ids


def test_ids_are_counted_without_gaps_and_keep_their_categories(tmp_path: Path):
    dataset = make(tmp_path, two_objects(), {300: 2})
    ids, categories = read_ids(dataset, dataset[0])
    assert sorted(np.unique(ids)) == [0, 1, 2]
    assert categories.tolist() == [1, 2]
    assert (ids == 2).sum() == 8 * 14
    with pytest.raises(ValueError, match="no instance mask"):
        read_ids(dataset, dataset[1])


def test_an_image_that_is_one_object_all_over(tmp_path: Path):
    dataset = make(tmp_path, np.full((SIDE, SIDE), 9, np.uint16))
    ids, categories = read_ids(dataset, dataset[0])
    assert (ids == 1).all()
    assert categories.tolist() == [1]


def test_an_unknown_category_and_a_mask_of_another_size_are_told(tmp_path: Path):
    dataset = make(tmp_path, two_objects(), {7: 5})
    with pytest.raises(DataError, match=r"category 5, the dataset has 1\.\.2"):
        read_ids(dataset, dataset[0])
    write_mask(tmp_path / "mask.png", np.zeros((8, 8), np.uint16))
    dataset = Dataset(tmp_path, dataset.categories, dataset.samples)
    with pytest.raises(DataError, match="8x8 pixels"):
        InstanceLoader(dataset, SIDE, 1).take([0])


def test_a_batch_holds_objects_where_they_are_known_and_prompts_where_not(tmp_path: Path):
    loader = InstanceLoader(make(tmp_path, two_objects(), {300: 2}), SIDE, 2)
    batch = loader.take([0, 1])
    assert batch.labelled.tolist() == [True, False]
    assert batch.kinds.tolist() == [Kind.MASK, Kind.SCRIBBLE] or batch.kinds[1] != Kind.MASK
    truth = batch.truth()
    assert truth.rows.tolist() == [0, 0]
    assert truth.categories.tolist() == [1, 2]
    expected = torch.from_numpy(two_objects().astype(np.int64))
    assert torch.equal(truth.masks, torch.stack([expected == 7, expected == 300]))
    # The scribble's points would each pass for an object.
    assert batch.points.shape[1] == 1
    assert batch.box_categories.tolist() == [[-1], [1]]
    assert len(batch.select(torch.tensor([1])).truth()) == 0


def test_slivers_are_no_objects(tmp_path: Path):
    ids = two_objects()
    ids[0, :7] = 400
    truth = InstanceLoader(make(tmp_path, ids), SIDE, 1).take([0]).truth()
    assert len(truth) == 2


def test_400_objects(tmp_path: Path):
    ids = np.arange(1, 401).reshape(20, 20).repeat(4, 0).repeat(4, 1)
    truth = InstanceLoader(make(tmp_path, ids), 80, 1).take([0]).truth()
    assert len(truth) == 400
    assert truth.masks.sum(0).eq(1).all()


def test_semantic_masks_are_refused(tmp_path: Path):
    dataset = make(tmp_path, two_objects() > 0, kind="semantic")
    assert not is_labelled(dataset[0])
    with pytest.raises(DataError, match=r"1 images .* have semantic masks"):
        refuse_semantic(dataset)


def test_lists_are_joined_in_the_order_of_the_images():
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    first = Instances(masks, torch.tensor([0, 2, 2]), torch.tensor([1, 2, 3]))
    second = Instances(masks[:2], torch.tensor([0, 1]), torch.tensor([4, 5]))
    joined = Instances.cat([first, second])
    assert joined.rows.tolist() == [0, 0, 1, 2, 2]
    assert joined.categories.tolist() == [1, 4, 5, 2, 3]
    assert len(Instances.cat([Instances.none(4, 4), first])) == 3


@given(st.integers(40, 500), st.integers(40, 500), st.integers(32, 300), st.integers(0, 10**6))
def test_crops_lie_inside_where_they_fit(width: int, height: int, side: int, seed: int):
    crop = Crop(side, scale=(0.9, 1.1), vertical_flip=0.5, quarter_turns=True)
    matrix = crop.matrix((width, height), 64, np.random.default_rng(seed))
    zoom = np.sqrt(abs(np.linalg.det(matrix[:, :2]))) * side / 64
    assert 0.9 - 1e-6 <= zoom <= 1.1 + 1e-6
    corners = warp_points(np.array([[0, 0], [width, height]], float), matrix)
    low, high = np.sort(corners, 0)
    wide, tall = side / zoom, side / zoom
    if wide <= width and tall <= height:
        assert (low <= 1e-6).all()
        assert (high >= 64 - 1e-6).all()


def test_a_crop_needs_a_side_and_a_range():
    with pytest.raises(MaskwrightError, match="side"):
        Crop(0)
    with pytest.raises(MaskwrightError, match="scale"):
        Crop(64, scale=(2.0, 1.0))
