"""Labels of every kind as maps, what a run has learnt from, and what a run's model says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskwright.data.dataset import Dataset
from maskwright.data.fingerprint import Fingerprint
from maskwright.data.groups import Grouping
from maskwright.data.labels import Box, Kind, Labels, Point, Tag
from maskwright.data.masks import label_values
from maskwright.errors import DataError, RunError
from maskwright.methods.curate import targets
from maskwright.methods.curate.material import learnt, prepare, run_probabilities
from maskwright.methods.curate.targets import GRID, label_maps
from maskwright.sam.sam import Sam
from tests.tiny_model import predictor, tiny_segmenter


@pytest.fixture
def dataset(scene_folder: Path, tmp_path: Path) -> Dataset:
    shutil.copytree(scene_folder, tmp_path / "scenes")
    return Dataset.load(tmp_path / "scenes")


def test_masks_are_taken_as_they_are(tiny_sam: Sam, dataset: Dataset) -> None:
    masked = dataset.with_samples([sample for sample in dataset if sample.labels.kind == Kind.MASK])
    maps = label_maps(tiny_sam, masked, batch=3)
    for labels, sample in zip(maps, masked, strict=True):
        values = label_values(masked, sample)[1]
        assert (labels == np.repeat(np.repeat(values, 2, 0), 2, 1)).all()


def test_weak_labels_are_filled_in_and_others_stay_unknown(tiny_sam: Sam, dataset: Dataset) -> None:
    maps = label_maps(tiny_sam, dataset)
    for labels, sample in zip(maps, dataset, strict=True):
        if sample.labels.kind <= Kind.TAG:
            assert (labels == 255).all()
        elif sample.labels.kind != Kind.MASK:
            named = {*(b.category for b in sample.labels.boxes), *(p.category for p in sample.labels.points)}
            named |= {scribble.category for scribble in sample.labels.scribbles}
            assert set(np.unique(labels)) <= {0, 255, *named}
            assert (labels != 255).any()


def test_a_box_is_answered_inside_of_it(tiny_sam: Sam, dataset: Dataset) -> None:
    box = Box(16, 8, 48, 40, 2)
    sample = replace(dataset[0], labels=Labels(boxes=(box,)))
    (labels,) = label_maps(tiny_sam, dataset.with_samples([sample]))
    rows, columns = np.nonzero(labels == 2)
    scale = GRID / 64
    margin = 3
    assert (labels != 1).all()
    if len(rows):
        assert rows.min() >= 8 * scale - margin
        assert rows.max() <= 40 * scale + margin
        assert columns.min() >= 16 * scale - margin
        assert columns.max() <= 48 * scale + margin


def test_a_tagged_category_that_nobody_located_may_be_anywhere(tiny_sam: Sam, dataset: Dataset) -> None:
    labels = Labels(points=(Point(20, 20, 1),), tags=(Tag(1), Tag(2)))
    (both,) = label_maps(tiny_sam, dataset.with_samples([replace(dataset[0], labels=labels)]))
    assert (both != 0).all()
    alone = replace(labels, tags=())
    (one,) = label_maps(tiny_sam, dataset.with_samples([replace(dataset[0], labels=alone)]))
    assert (one != 255).all()


def test_no_image_is_encoded_for_masks(tiny_sam: Sam, dataset: Dataset, monkeypatch) -> None:
    masked = dataset.with_samples([sample for sample in dataset if sample.labels.kind == Kind.MASK])
    monkeypatch.setattr(Sam, "encode", lambda *_: pytest.fail("encoded"))
    assert len(label_maps(tiny_sam, masked)) == len(masked)
    assert targets.LOCATED == (Kind.POINT, Kind.BOX, Kind.SCRIBBLE, Kind.MASK)


def test_material_reads_no_more_labels_than_it_is_asked_for(tiny_sam: Sam, dataset: Dataset) -> None:
    whole = prepare(tiny_sam, dataset)
    some = prepare(tiny_sam, dataset, most=4, seed=1)
    read = (some.maps != 255).any((1, 2))
    assert 1 <= read.sum() <= 4
    assert (some.maps[read] == whole.maps[read]).all()
    part = whole.subset(np.array([3, 1]))
    assert [sample.id for sample in part.dataset] == [dataset[3].id, dataset[1].id]
    torch.testing.assert_close(part.features.load_low(slice(None)), whole.features.load_low([3, 1]))


def test_groups_by_name_and_by_equal_files(tiny_sam: Sam, dataset: Dataset) -> None:
    shutil.copy(dataset.image_path(dataset[0]), dataset.image_path(dataset[4]))
    groups = prepare(tiny_sam, dataset).groups
    assert groups[0] == groups[4]
    assert len(np.unique(groups)) == len(dataset) - 1
    by_name = prepare(tiny_sam, dataset, grouping=Grouping(r"(train|val|test)")).groups
    assert len(np.unique(by_name)) == 3


def test_a_dataset_with_faults_is_refused(tiny_sam: Sam, dataset: Dataset) -> None:
    masked = next(sample for sample in dataset if sample.labels.mask)
    path = dataset.mask_path(masked)
    assert path is not None
    path.write_bytes(b"")
    with pytest.raises(DataError):
        prepare(tiny_sam, dataset)


def test_what_a_run_has_learnt_from_is_told_by_contents(dataset: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "data.json").write_text(Fingerprint.of(dataset).to_json())
    assert learnt(run, dataset).tolist() == [sample.split == "train" for sample in dataset]
    first = dataset.image_path(dataset[0])
    first.write_bytes(first.read_bytes() + b" ")
    assert not learnt(run, dataset)[0]
    (run / "data.json").write_text("{}")
    with pytest.raises(RunError, match=r"leave out --run"):
        learnt(run, dataset)


def test_a_runs_probabilities_are_in_the_datasets_order(dataset: Dataset) -> None:
    names = ("background", "blue", "red")
    renamed = replace(dataset, categories=names)
    model = predictor(tiny_segmenter())
    said = run_probabilities(model, renamed, 16, batch=5)
    assert said.shape == (len(dataset), 3, 16, 16)
    pixels = np.stack([renamed.pixels(renamed[0])])
    wanted = model.logits(pixels).softmax(1)[0, [0, 2, 1]].numpy()
    np.testing.assert_allclose(said[0], wanted.reshape(3, *wanted.shape[1:]), atol=2e-3)
    with pytest.raises(DataError, match="categories differ"):
        run_probabilities(model, dataset, 16)
