"""Batches: what every kind of label becomes on the canvas."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from maskwright.data.batch import Batch, collate
from maskwright.data.dataset import Dataset
from maskwright.data.geometry import resize_matrix
from maskwright.data.items import read_item
from maskwright.data.labels import IGNORE, Box, Kind, Labels, Point, Sample, Scribble, Tag

torch.set_num_threads(1)


def _one(dataset: Dataset, labels: Labels, size: int = 32, index: int = 0) -> Batch:
    sample = Sample("x", dataset[index].image, labels=labels)
    item = read_item(dataset, sample)
    return collate([item], [resize_matrix(item.size, size)], size, len(dataset.categories))


def test_every_kind_by_hand(mixed):
    items = [read_item(mixed, sample) for sample in mixed]
    batch = collate(items, [resize_matrix(item.size, 32) for item in items], 32, 3)
    assert batch.images.shape == (7, 3, 32, 32)
    assert batch.images.is_contiguous()
    assert len(batch) == 7
    original = np.asarray(Image.open(mixed.root / "0.png")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(batch.images[0].numpy(), original, atol=1e-6)
    assert batch.inside.all()
    assert batch.kinds.tolist() == [5, 3, 4, 2, 5, 1, 0]
    assert batch.sizes[1].tolist() == [64, 32]
    assert batch.indices.tolist() == list(range(7))
    torch.testing.assert_close(batch.matrices[1], torch.tensor([[0.5, 0, 0], [0, 1, 0]]))

    mask = np.full((32, 32), 0)
    mask[8:16, 4:20], mask[24:] = 2, IGNORE
    np.testing.assert_array_equal(batch.target[0], mask)
    assert batch.boxes[1].tolist() == [[4, 4, 12, 12], [20, 16, 32, 32]]
    assert batch.box_categories.tolist() == [[-1, -1], [1, 2], *[[-1, -1]] * 5]
    assert (batch.target[[1, 5, 6]] == IGNORE).all()
    rows, columns = np.nonzero(batch.target[2].numpy() == 1)
    assert set(rows) == {3, 4}
    assert columns.min() == 3
    assert columns.max() == 28
    np.testing.assert_allclose(batch.points[2, :, 0], (6 + 36 * (np.arange(8) + 0.5) / 8) * 32 / 48, rtol=1e-6)
    assert batch.point_categories[2].tolist() == [1] * 8
    assert batch.points[3, :2].tolist() == [[16, 16], [2, 1]]
    assert batch.point_categories[3].tolist() == [2, 0] + [-1] * 6
    assert batch.target[3, 15:17, 15:17].tolist() == [[2, 2], [2, 2]]
    assert batch.target[3, 0, 1] == 0
    assert (batch.target[3] == IGNORE).sum() == 32 * 32 - 8
    assert batch.target[4, :, 0].unique_consecutive().tolist() == [2, 1, 0]
    assert batch.present.tolist() == [
        [1, 0, 1],
        [-1, 1, 1],
        [-1, 1, -1],
        [1, -1, 1],
        [1, 1, 1],
        [-1, 0, 1],
        [-1, -1, -1],
    ]


def test_the_finer_label_wins_and_all_are_used(mixed):
    line, click = Scribble(((4.0, 28.0), (28.0, 28.0)), 1), Point(10, 28, 0)
    both = _one(mixed, Labels(scribbles=(line,), points=(click,), boxes=(Box(0, 0, 9, 9, 2),), tags=(Tag(1),)))
    assert both.target[0, 27:29, 4:28].unique().tolist() == [1]
    assert both.target[0, 27, 10] == 1
    assert both.present[0].tolist() == [1, 1, 1]
    assert both.box_categories.tolist() == [[2]]
    assert both.kinds.item() == Kind.SCRIBBLE
    masked = _one(mixed, Labels(mask=mixed[0].labels.mask, scribbles=(line, Scribble(((6.0, 12.0),), 1))))
    assert (masked.target[0, 8:16, 4:20] == 2).all()
    assert (masked.target[0, 27:29, 4:28] == 1).all(), "a scribble speaks where the mask ignores"


@pytest.mark.parametrize("size", [16, 32, 200])
def test_the_pixel_under_every_vertex_is_drawn(mixed, size):
    generator = np.random.default_rng(size)
    for _ in range(20):
        x, y = generator.random(2) * 32
        for labels in (Labels(points=(Point(x, y, 2),)), Labels(scribbles=(Scribble(((x, y),), 2),))):
            batch = _one(mixed, labels, size)
            assert batch.target[0, int(y * size / 32), int(x * size / 32)] == 2
            assert batch.point_categories.tolist() == [[2]]


def test_disc_area(mixed):
    batch = _one(mixed, Labels(points=(Point(16, 16, 1),)), 500)
    assert (batch.target == 1).sum().item() == pytest.approx(np.pi * 6**2, rel=0.1)
    line = _one(mixed, Labels(scribbles=(Scribble(((4.0, 16.0), (28.0, 16.0)), 1),)), 500)
    assert (line.target == 1).sum().item() == pytest.approx(375 * 6, rel=0.05)


def test_labels_that_leave_the_frame(mixed):
    sample = Sample(
        "x", "0.png", labels=Labels(points=(Point(4, 16, 2),), boxes=(Box(0, 0, 10, 8, 1),), tags=(Tag(1),))
    )
    item = read_item(mixed, sample)
    batch = collate([item] * 2, [np.array([[1.0, 0, -9], [0, 1, 0]]), np.array([[1.0, 0, -20], [0, 1, 0]])], 32, 3)
    assert batch.boxes.shape == (2, 0, 4)
    assert batch.points.shape == (2, 0, 2)
    assert (batch.target == IGNORE).all()
    assert batch.present.tolist() == [[-1, 1, 0], [-1, -1, 0]]
    assert batch.inside.sum((1, 2)).tolist() == [23 * 32, 12 * 32]
    mask = read_item(mixed, mixed[0])
    gone = collate([mask, mask], [np.array([[1.0, 0, -30], [0, 1, 0]]), np.array([[1.0, 0, 0], [0, 1, -15.9]])], 32, 3)
    assert gone.present.tolist() == [[1, 0, 0], [1, 0, 0]]
    sliver = collate([mask], [np.array([[1.0, 0, -19], [0, 1, -13]])], 32, 3)
    assert sliver.present.tolist() == [[1, 0, -1]]


def test_to_moves_every_tensor(mixed):
    moved = _one(mixed, Labels(points=(Point(16, 16, 1),))).to("meta")
    assert all(getattr(moved, f.name).device.type == "meta" for f in fields(Batch))


def test_unlabelled_images_have_no_label_of_any_kind() -> None:
    images = torch.rand(3, 3, 32, 32)
    batch = Batch.unlabelled(images, 4)
    assert len(batch) == 3
    assert batch.images is images
    assert batch.inside.all()
    assert (batch.target == IGNORE).all()
    assert (batch.present == -1).all()
    assert batch.present.shape == (3, 4)
    assert (batch.kinds == Kind.NONE).all()
    assert (batch.indices == -1).all()
    assert batch.boxes.shape == (3, 0, 4)
    assert batch.points.shape == (3, 0, 2)
    assert batch.matrices.shape == (3, 2, 3)
    assert batch.sizes.tolist() == [[32, 32]] * 3
