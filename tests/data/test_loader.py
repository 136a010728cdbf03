"""The loader: a step's batch depends on nothing but seed and step; image and labels move together."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskwright.data.augment import Augmentation
from maskwright.data.batch import Batch
from maskwright.data.dataset import Dataset
from maskwright.data.labels import IGNORE, Box, Labels, Mask, Point, Sample
from maskwright.data.loader import Loader
from maskwright.errors import DataError, MaskwrightError

torch.set_num_threads(1)

POLYPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "polyps"
WILD = Augmentation(vertical_flip=0.5, quarter_turns=True, rotate_deg=20, scale=(0.6, 1.5), shift=0.2, aspect=0.2)


def _same(one: Batch, two: Batch) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(Batch))


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


def test_images_with_boxes_are_never_tilted(mixed):
    boxes = mixed.with_samples([mixed[1]] * 8)
    matrices = Loader(boxes, 32, 8, augment=Augmentation(rotate_deg=30)).batch(0).matrices
    assert (matrices[:, 0, 1] == 0).all()
    assert (Loader(mixed.with_samples([mixed[0]]), 32, 8, augment=Augmentation()).batch(0).matrices[:, 0, 1] != 0).all()


def test_random_access_equals_sequence_whatever_the_threads(mixed):
    make = lambda workers: Loader(mixed, 24, 3, augment=WILD, seed=5, workers=workers)  # noqa: E731
    sequence = [make(0).batch(step) for step in range(8)]
    plain = make(0)
    assert all(_same(plain.batch(step), sequence[step]) for step in (6, 0, 7, 3, 3))
    with make(3) as threaded:
        assert all(_same(threaded.batch(step), sequence[step]) for step in (0, 1, 2, 3, 7, 2, 2, 3, 0))
        threaded.close()
        assert _same(threaded.batch(4), sequence[4])
    other = Loader(mixed, 24, 3, augment=WILD, seed=6)
    assert not all(_same(other.batch(step), sequence[step]) for step in range(3))


@given(st.integers(1, 9), st.integers(0, 50), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_an_epoch_is_a_permutation_and_every_batch_is_full(mixed, batch_size, seed, epoch):
    loader = Loader(mixed, 8, batch_size, seed=seed)
    steps = range(epoch * len(loader), (epoch + 1) * len(loader))
    order = np.concatenate([loader.indices(step) for step in steps])
    assert len(order) == len(loader) * batch_size
    assert sorted(order[:7]) == list(range(7))
    assert len(set(order[7:14])) == len(order[7:14])


def test_epochs_differ(mixed):
    loader = Loader(mixed, 8, 7)
    assert len({tuple(loader.indices(step)) for step in range(6)}) > 1


@pytest.mark.parametrize("world", [2, 3, 6])
def test_processes_share_out_the_same_batch(mixed, world):
    whole = Loader(mixed, 16, 6, augment=WILD, seed=2)
    parts = [Loader(mixed, 16, 6, augment=WILD, seed=2, rank=rank, world=world) for rank in range(world)]
    for step in range(3):
        batch = whole.batch(step)
        for rank, part in enumerate(parts):
            share = part.batch(step)
            assert torch.equal(share.images, batch.images[rank::world])
            assert torch.equal(share.target, batch.target[rank::world])
            assert torch.equal(share.indices, batch.indices[rank::world])
    seen = sorted(int(i) for part in parts for batch in part.ordered() for i in batch.indices)
    assert seen == list(range(7))


def test_weights_decide_how_often(mixed):
    weights = [4, 1, 0, 1, 1, 0, 0]
    loader = Loader(mixed, 8, 2, weights=weights, seed=1)
    for epoch in range(20):
        order = np.concatenate([loader.indices(epoch * len(loader) + step) for step in range(len(loader))])
        expected = np.array(weights) * 8 / 7
        counts = np.bincount(order, minlength=7)
        assert (np.abs(counts - expected) < 1).all()
        assert (counts[[2, 5, 6]] == 0).all()
    assert len({tuple(loader.indices(step)) for step in range(20)}) > 3


@pytest.mark.parametrize("workers", [0, 2])
def test_ordered_gives_everything_once_and_plain(mixed, workers):
    with Loader(mixed, 16, 3, augment=WILD, workers=workers) as loader:
        batches = list(loader.ordered())
        assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
        assert all(batch.inside.all() for batch in batches)
        assert _same(loader.take([3, 4, 5]), batches[1])


def test_images_are_decoded_once_while_memory_lasts(mixed, monkeypatch):
    decoded = []
    read = Dataset.pixels
    monkeypatch.setattr(
        Dataset, "pixels", lambda data, sample: decoded.append(Path(sample.image).name) or read(data, sample)
    )
    loader = Loader(mixed, 32, 7)
    for step in range(3):
        loader.batch(step)
    assert sorted(decoded) == [f"{i}.png" for i in range(7)]
    decoded.clear()
    full = Loader(mixed, 32, 7, cache_bytes=32 * 32 * 4)
    full.batch(0)
    full.batch(1)
    assert len(decoded) == 13


def test_an_unreadable_file_is_an_error_of_the_step(mixed):
    broken = Dataset(mixed.root, mixed.categories, (Sample("x", "nowhere.png"),))
    with Loader(broken, 8, 1, workers=1) as loader, pytest.raises(DataError):
        loader.batch(0)


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


def test_all_wrong_settings_are_named_at_once(mixed):
    with pytest.raises(MaskwrightError) as caught:
        Loader(mixed, 32, 5, world=2, rank=2, seed=-1, weights=[1.0])
    for word in ("batch size 5", "rank 2", "seed -1", "weights"):
        assert word in str(caught.value)
    with pytest.raises(MaskwrightError, match="no samples"):
        Loader(mixed.with_samples([]), 32, 4)


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
