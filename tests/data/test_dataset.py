"""A dataset is its samples with `load` and `save`: it stays one through every change, and equals what a format read."""

from __future__ import annotations

from pathlib import Path

from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Mask, Sample, Samples

SAMPLES = (Sample("a", "a.png"), Sample("b", "b.png", "val"))


def test_changes_give_datasets_again(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path, ("background", "cat"), SAMPLES, "here.json")
    for changed in (dataset.split("val"), dataset.with_samples(SAMPLES[1:])):
        assert type(changed) is Dataset
        assert changed.samples == SAMPLES[1:]
        assert (changed.root, changed.categories, changed.source) == (tmp_path, ("background", "cat"), "here.json")
    assert type(Dataset.load(dataset.save())) is Dataset


def test_what_a_format_read_equals_the_dataset_by_content_and_not_by_source(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path, ("background", "cat"), SAMPLES, "one source")
    read = manifest.read(dataset.save())
    assert type(read) is Samples
    assert read.source != dataset.source
    assert read == dataset
    assert dataset == read
    assert dataset.split("val") != read
    assert read != Samples(tmp_path, ("background", "dog"), SAMPLES)
    assert read != Samples(tmp_path / "elsewhere", ("background", "cat"), SAMPLES)
    assert dataset != SAMPLES


def test_the_category_of_a_mask_value() -> None:
    instances = Mask("m.png", "instance", {2: 3})
    assert [instances.category_of(value) for value in (0, 1, 2, 300)] == [0, 1, 3, 1]
    assert [Mask("m.png").category_of(value) for value in (0, 1, 2)] == [0, 1, 2]
