"""The loader: what every label becomes on the canvas; and a step's batch depends on nothing but seed and step."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskwright.data import loader as loader_module
from maskwright.data.augment import Augmentation
from maskwright.data.geometry import resize_matrix
from maskwright.data.labels import IGNORE, Box, Dataset, Kind, Labels, Mask, Point, Sample, Scribble, Tag
from maskwright.data.loader import Batch, Loader, collate, read_item
from maskwright.errors import DataError, MaskwrightError

torch.set_num_threads(1)

POLYPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "polyps"
WILD = Augmentation(vertical_flip=0.5, quarter_turns=True, rotate_deg=20, scale=(0.6, 1.5), shift=0.2, aspect=0.2)


def _write(root: Path, name: str, array: np.ndarray) -> str:
    Image.fromarray(array).save(root / name)
    return name


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """Seven images of different sizes; 3 categories; one sample of each kind, and one with several."""
    root = tmp_path_factory.mktemp("mixed")
    generator = np.random.default_rng(0)
    sizes = [(32, 32), (64, 32), (48, 40), (32, 64), (40, 40), (56, 32), (32, 48)]
    images = [
        _write(root, f"{i}.png", generator.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for i, (w, h) in enumerate(sizes)
    ]
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[8:16, 4:20] = 2
    mask[24:] = IGNORE
    instances = np.zeros((40, 40), dtype=np.uint16)
    instances[:10], instances[10:20], instances[20:30] = 300, 7, IGNORE
    labels = [
        Labels(mask=Mask(_write(root, "m0.png", mask))),
        Labels(boxes=(Box(8, 4, 24, 12, 1), Box(40, 16, 64, 32, 2))),
        Labels(scribbles=(Scribble(((6.0, 5.0), (42.0, 5.0)), 1),)),
        Labels(points=(Point(16, 32, 2), Point(2, 2, 0))),
        Labels(mask=Mask(_write(root, "m4.png", instances), "instance", {300: 2})),
        Labels(tags=(Tag(2),)),
        Labels(),
    ]
    samples = [Sample(f"s{i}", image, labels=label) for i, (image, label) in enumerate(zip(images, labels))]
    return Dataset(root, ("background", "cat", "dog"), tuple(samples))


def _same(one: Batch, two: Batch) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(Batch))


def _one(dataset: Dataset, labels: Labels, size: int = 32, index: int = 0) -> Batch:
    sample = Sample("x", dataset[index].image, labels=labels)
    item = read_item(dataset, sample)
    return collate([item], [resize_matrix(item.size, size)], size, len(dataset.categories))


def test_every_kind_by_hand(dataset):
    batch = Loader(dataset, 32, 7, shuffle=False).batch(0)
    assert batch.images.shape == (7, 3, 32, 32)
    assert batch.images.is_contiguous()
    assert len(batch) == 7
    original = np.asarray(Image.open(dataset.root / "0.png")).transpose(2, 0, 1) / 255
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


def test_the_finer_label_wins_and_all_are_used(dataset):
    line, click = Scribble(((4.0, 28.0), (28.0, 28.0)), 1), Point(10, 28, 0)
    both = _one(dataset, Labels(scribbles=(line,), points=(click,), boxes=(Box(0, 0, 9, 9, 2),), tags=(Tag(1),)))
    assert both.target[0, 27:29, 4:28].unique().tolist() == [1]
    assert both.target[0, 27, 10] == 1
    assert both.present[0].tolist() == [1, 1, 1]
    assert both.box_categories.tolist() == [[2]]
    assert both.kinds.item() == Kind.SCRIBBLE
    masked = _one(dataset, Labels(mask=dataset[0].labels.mask, scribbles=(line, Scribble(((6.0, 12.0),), 1))))
    assert (masked.target[0, 8:16, 4:20] == 2).all()
    assert (masked.target[0, 27:29, 4:28] == 1).all(), "a scribble speaks where the mask ignores"


@pytest.mark.parametrize("size", [16, 32, 200])
def test_the_pixel_under_every_vertex_is_drawn(dataset, size):
    generator = np.random.default_rng(size)
    for _ in range(20):
        x, y = generator.random(2) * 32
        for labels in (Labels(points=(Point(x, y, 2),)), Labels(scribbles=(Scribble(((x, y),), 2),))):
            batch = _one(dataset, labels, size)
            assert batch.target[0, int(y * size / 32), int(x * size / 32)] == 2
            assert batch.point_categories.tolist() == [[2]]


def test_disc_area(dataset):
    batch = _one(dataset, Labels(points=(Point(16, 16, 1),)), 500)
    assert (batch.target == 1).sum().item() == pytest.approx(np.pi * 6**2, rel=0.1)
    line = _one(dataset, Labels(scribbles=(Scribble(((4.0, 16.0), (28.0, 16.0)), 1),)), 500)
    assert (line.target == 1).sum().item() == pytest.approx(375 * 6, rel=0.05)


def test_labels_that_leave_the_frame(dataset):
    sample = Sample(
        "x", "0.png", labels=Labels(points=(Point(4, 16, 2),), boxes=(Box(0, 0, 10, 8, 1),), tags=(Tag(1),))
    )
    item = read_item(dataset, sample)
    batch = collate([item] * 2, [np.array([[1.0, 0, -9], [0, 1, 0]]), np.array([[1.0, 0, -20], [0, 1, 0]])], 32, 3)
    assert batch.boxes.shape == (2, 0, 4)
    assert batch.points.shape == (2, 0, 2)
    assert (batch.target == IGNORE).all()
    assert batch.present.tolist() == [[-1, 1, 0], [-1, -1, 0]]
    assert batch.inside.sum((1, 2)).tolist() == [23 * 32, 12 * 32]
    mask = read_item(dataset, dataset[0])
    gone = collate([mask, mask], [np.array([[1.0, 0, -30], [0, 1, 0]]), np.array([[1.0, 0, 0], [0, 1, -15.9]])], 32, 3)
    assert gone.present.tolist() == [[1, 0, 0], [1, 0, 0]]
    sliver = collate([mask], [np.array([[1.0, 0, -19], [0, 1, -13]])], 32, 3)
    assert sliver.present.tolist() == [[1, 0, -1]]


def test_clicks_stay_on_their_colour_under_augmentation(tmp_path):
    """Image, mask, points and boxes move together: a click's pixel shows the colour that was clicked."""
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[20:40, 30:60] = 255
    Image.fromarray(image).save(tmp_path / "i.png")
    Image.fromarray((image[..., 0] > 0).astype(np.uint8)).save(tmp_path / "m.png")
    labels = Labels(mask=Mask("m.png"), points=(Point(45, 30, 1), Point(35.5, 25.5, 1)))
    dataset = Dataset(tmp_path, ("background", "thing"), (Sample("a", "i.png", labels=labels),))
    loader = Loader(dataset, 64, 8, augment=WILD, seed=3)
    checked = 0
    for step in range(4):
        batch = loader.batch(step)
        assert not torch.equal(batch.images[0], batch.images[1])
        assert torch.equal(batch.target != IGNORE, batch.inside)
        bright = batch.images.mean(1) > 0.5
        agree = (bright == (batch.target == 1))[batch.inside]
        assert agree.float().mean() > 0.97
        for b, p in (batch.point_categories == 1).nonzero().tolist():
            x, y = batch.points[b, p].long().tolist()
            assert batch.target[b, y, x] == 1
            checked += 1
    assert checked > 40


def test_images_with_boxes_are_never_tilted(dataset):
    boxes = dataset.with_samples([dataset[1]] * 8)
    matrices = Loader(boxes, 32, 8, augment=Augmentation(rotate_deg=30)).batch(0).matrices
    assert (matrices[:, 0, 1] == 0).all()
    assert (
        Loader(dataset.with_samples([dataset[0]]), 32, 8, augment=Augmentation()).batch(0).matrices[:, 0, 1] != 0
    ).all()


def test_random_access_equals_sequence_whatever_the_threads(dataset):
    make = lambda workers: Loader(dataset, 24, 3, augment=WILD, seed=5, workers=workers)  # noqa: E731
    sequence = [make(0).batch(step) for step in range(8)]
    plain = make(0)
    assert all(_same(plain.batch(step), sequence[step]) for step in (6, 0, 7, 3, 3))
    with make(3) as threaded:
        assert all(_same(threaded.batch(step), sequence[step]) for step in (0, 1, 2, 3, 7, 2, 2, 3, 0))
        threaded.close()
        assert _same(threaded.batch(4), sequence[4])
    other = Loader(dataset, 24, 3, augment=WILD, seed=6)
    assert not all(_same(other.batch(step), sequence[step]) for step in range(3))


@given(st.integers(1, 9), st.integers(0, 50), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_an_epoch_is_a_permutation_and_every_batch_is_full(dataset, batch_size, seed, epoch):
    loader = Loader(dataset, 8, batch_size, seed=seed)
    steps = range(epoch * len(loader), (epoch + 1) * len(loader))
    order = np.concatenate([loader.indices(step) for step in steps])
    assert len(order) == len(loader) * batch_size
    assert sorted(order[:7]) == list(range(7))
    assert len(set(order[7:14])) == len(order[7:14])


def test_epochs_differ(dataset):
    loader = Loader(dataset, 8, 7)
    assert len({tuple(loader.indices(step)) for step in range(6)}) > 1


@pytest.mark.parametrize("world", [2, 3, 6])
def test_processes_share_out_the_same_batch(dataset, world):
    whole = Loader(dataset, 16, 6, augment=WILD, seed=2)
    parts = [Loader(dataset, 16, 6, augment=WILD, seed=2, rank=rank, world=world) for rank in range(world)]
    for step in range(3):
        batch = whole.batch(step)
        for rank, part in enumerate(parts):
            share = part.batch(step)
            assert torch.equal(share.images, batch.images[rank::world])
            assert torch.equal(share.target, batch.target[rank::world])
            assert torch.equal(share.indices, batch.indices[rank::world])
    seen = sorted(int(i) for part in parts for batch in part.ordered() for i in batch.indices)
    assert seen == list(range(7))


def test_weights_decide_how_often(dataset):
    weights = [4, 1, 0, 1, 1, 0, 0]
    loader = Loader(dataset, 8, 2, weights=weights, seed=1)
    for epoch in range(20):
        order = np.concatenate([loader.indices(epoch * len(loader) + step) for step in range(len(loader))])
        expected = np.array(weights) * 8 / 7
        counts = np.bincount(order, minlength=7)
        assert (np.abs(counts - expected) < 1).all()
        assert (counts[[2, 5, 6]] == 0).all()
    assert len({tuple(loader.indices(step)) for step in range(20)}) > 3


@pytest.mark.parametrize("workers", [0, 2])
def test_ordered_gives_everything_once_and_plain(dataset, workers):
    with Loader(dataset, 16, 3, augment=WILD, workers=workers) as loader:
        batches = list(loader.ordered())
        assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
        assert all(batch.inside.all() for batch in batches)
        assert _same(loader.take([3, 4, 5]), batches[1])


def test_images_are_decoded_once_while_memory_lasts(dataset, monkeypatch):
    decoded = []
    read = loader_module.read_image
    monkeypatch.setattr(loader_module, "read_image", lambda path: decoded.append(path.name) or read(path))
    loader = Loader(dataset, 32, 7)
    for step in range(3):
        loader.batch(step)
    assert sorted(decoded) == [f"{i}.png" for i in range(7)]
    decoded.clear()
    full = Loader(dataset, 32, 7, cache_bytes=32 * 32 * 4)
    full.batch(0)
    full.batch(1)
    assert len(decoded) == 13


def test_large_images_are_kept_reduced_and_labels_stay_in_place(tmp_path):
    image = np.zeros((300, 900, 3), dtype=np.uint8)
    image[120:180, 300:600] = 255
    Image.fromarray(image).save(tmp_path / "i.png")
    Image.fromarray((image[..., 0] > 0).astype(np.uint8)).save(tmp_path / "m.png")
    labels = Labels(mask=Mask("m.png"), boxes=(Box(300, 120, 600, 180, 1),))
    dataset = Dataset(tmp_path, ("background", "thing"), (Sample("a", "i.png", labels=labels),))
    loader = Loader(dataset, 60, 1)
    assert loader.item(0).image.shape == (40, 120, 3)
    assert loader.item(0).size == (900, 300)
    batch = loader.batch(0)
    assert batch.boxes.tolist() == [[[20, 24, 40, 36]]]
    expected = torch.zeros(60, 60)
    expected[24:36, 20:40] = 1
    assert torch.equal(batch.target[0].float(), expected)
    assert (batch.images[0].mean(0) - expected).abs().mean() < 0.02


def test_unusable_files_are_named(dataset, tmp_path):
    def problem(sample: Sample) -> str:
        with pytest.raises(DataError) as caught:
            read_item(dataset, sample)
        return str(caught.value)

    assert "4x4" in problem(Sample("x", "0.png", size=(4, 4)))
    assert "m0.png" in problem(Sample("x", "1.png", labels=Labels(mask=Mask("m0.png"))))
    assert "nowhere.png" in problem(Sample("x", "nowhere.png"))
    text = problem(Sample("x", "4.png", labels=Labels(mask=Mask("m4.png"))))
    assert "7, 300" in text
    assert "m4.png" in text
    assert "category 9" in problem(Sample("x", "4.png", labels=Labels(mask=Mask("m4.png", "instance", {7: 9}))))
    broken = Dataset(dataset.root, dataset.categories, (Sample("x", "nowhere.png"),))
    with Loader(broken, 8, 1, workers=1) as loader, pytest.raises(DataError):
        loader.batch(0)


def test_all_wrong_settings_are_named_at_once(dataset):
    with pytest.raises(MaskwrightError) as caught:
        Loader(dataset, 32, 5, world=2, rank=2, seed=-1, weights=[1.0])
    for word in ("batch size 5", "rank 2", "seed -1", "weights"):
        assert word in str(caught.value)
    with pytest.raises(MaskwrightError, match="no samples"):
        Loader(dataset.with_samples([]), 32, 4)


def test_to_moves_every_tensor(dataset):
    moved = Loader(dataset, 8, 2).batch(0).to("meta")
    assert all(getattr(moved, f.name).device.type == "meta" for f in fields(Batch))


def test_real_polyps():
    if not POLYPS.is_dir():
        pytest.skip(f"real data is not there: {POLYPS}")
    formats = pytest.importorskip("maskwright.data.formats")
    if not hasattr(formats, "read"):
        pytest.skip("the dataset reader is not there")
    dataset = Dataset.load(POLYPS).split("train")
    kinds = [sample.labels.kind for sample in dataset]
    few = dataset.with_samples([dataset[kinds.index(kind)] for kind in sorted(set(kinds))])
    batch = Loader(few, 176, len(few), augment=Augmentation(), shuffle=False).batch(0)
    assert batch.kinds.tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.images.std() > 0.1
    assert (batch.present[1:, 1] == 1).all()
    assert (batch.target[5] == 1).any()
    assert (batch.box_categories[3] == 1).any()
    assert (batch.target[[2, 4]] != IGNORE).any((1, 2)).all()
    assert batch.point_categories[2].max() == 1
