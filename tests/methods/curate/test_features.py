"""Features of a dataset: what embeddings are, computed once, found again, and whole after a kill."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.geometry import squash
from maskwright.engine.locks import FolderLock
from maskwright.errors import DataError, RunError
from maskwright.methods.curate.features import compute_features, pooled
from maskwright.sam.sam import Embedding, Sam


@pytest.fixture
def dataset(scene_folder: Path, tmp_path: Path) -> Dataset:
    shutil.copytree(scene_folder, tmp_path / "scenes")
    return Dataset.load(tmp_path / "scenes")


def test_features_are_those_of_the_embedding_in_half_precision(any_sam: Sam, dataset: Dataset, tmp_path: Path) -> None:
    features = compute_features(any_sam, dataset, folder=tmp_path / "features", batch=5)
    pixels = np.stack([squash(dataset.pixels(sample), any_sam.size) for sample in dataset])
    with torch.no_grad():
        whole = any_sam.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    loaded = features.load(slice(None))
    for name in ("high0", "high1", "low"):
        torch.testing.assert_close(loaded[name], getattr(whole, name), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(features.load_low([2, 0]), loaded["low"][[2, 0]])
    assert features.channels == {name: getattr(whole, name).shape[1] for name in ("high0", "high1", "low")}


def test_a_large_canvas_is_averaged_down() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {"high0": 256, "high1": 128, "low": 64}
    levels = {name: torch.randn(1, 2, side, side, generator=generator) for name, side in sizes.items()}
    small = pooled(Embedding(levels["high0"], levels["high1"], levels["low"]))
    for name, side in {"high0": 64, "high1": 32, "low": 16}.items():
        torch.testing.assert_close(small[name], F.avg_pool2d(levels[name], sizes[name] // side))


def test_an_image_is_encoded_once(tiny_sam: Sam, dataset: Dataset, tmp_path: Path, monkeypatch) -> None:
    first = compute_features(tiny_sam, dataset, folder=tmp_path / "features")
    monkeypatch.setattr(Sam, "encode", lambda *_: pytest.fail("encoded again"))
    again = compute_features(tiny_sam, dataset, folder=tmp_path / "features")
    assert again.rows.tolist() == first.rows.tolist()


def test_equal_images_share_a_row_and_new_ones_are_added(tiny_sam: Sam, dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "features"
    before = compute_features(tiny_sam, dataset.with_samples(dataset.samples[:5]), folder=folder).load(slice(None))
    shutil.copy(dataset.image_path(dataset[0]), dataset.image_path(dataset[9]))
    features = compute_features(tiny_sam, dataset, folder=folder)
    assert features.rows[9] == features.rows[0]
    assert len(np.unique(features.rows)) == len(dataset) - 1
    for name, level in before.items():
        torch.testing.assert_close(features.load(slice(0, 5))[name], level, atol=0, rtol=0)


def test_what_a_killed_process_left_is_written_over(tiny_sam: Sam, dataset: Dataset, tmp_path: Path) -> None:
    whole = compute_features(tiny_sam, dataset, folder=tmp_path / "whole").load(slice(None))
    features = compute_features(tiny_sam, dataset.with_samples(dataset.samples[:6]), folder=tmp_path / "cut")
    keys = features.folder / "keys.txt"
    # The numbers of a batch were written, its keys half.
    for name in ("high0", "high1", "low"):
        with open(features.folder / f"{name}.f16", "ab") as file:
            file.write(b"\1\2\3")
    keys.write_text(keys.read_text()[:-7])
    mended = compute_features(tiny_sam, dataset, folder=tmp_path / "cut").load(slice(None))
    for name, level in whole.items():
        # A batch of other images may round otherwise.
        torch.testing.assert_close(mended[name], level, atol=1e-3, rtol=2e-3)


def test_numbers_that_were_lost_are_computed_again(tiny_sam: Sam, dataset: Dataset, tmp_path: Path) -> None:
    features = compute_features(tiny_sam, dataset, folder=tmp_path / "features")
    whole = features.load(slice(None))
    path = features.folder / "high1.f16"
    os.truncate(path, path.stat().st_size // 2)
    mended = compute_features(tiny_sam, dataset, folder=tmp_path / "features").load(slice(None))
    for name, level in whole.items():
        # A batch of other images may round otherwise.
        torch.testing.assert_close(mended[name], level, atol=1e-3, rtol=2e-3)


def test_another_sam_has_a_folder_of_its_own(
    tiny_sam: Sam, tiny_lite_sam: Sam, dataset: Dataset, tmp_path: Path
) -> None:
    folders = {compute_features(sam, dataset, folder=tmp_path).folder for sam in (tiny_sam, tiny_lite_sam)}
    assert len(folders) == 2


def test_images_that_cannot_be_read_are_named_all_at_once(tiny_sam: Sam, dataset: Dataset, tmp_path: Path) -> None:
    dataset.image_path(dataset[1]).write_bytes(b"no image")
    dataset.image_path(dataset[3]).unlink()
    with pytest.raises(DataError) as error:
        compute_features(tiny_sam, dataset, folder=tmp_path / "features")
    assert len(error.value.problems) == 2
    # The others are kept.
    Image.new("RGB", (64, 64)).save(dataset.image_path(dataset[1]))
    Image.new("RGB", (64, 64), "red").save(dataset.image_path(dataset[3]))
    assert len(compute_features(tiny_sam, dataset, folder=tmp_path / "features")) == len(dataset)


def test_a_damaged_list_of_files_costs_time_only(tiny_sam: Sam, dataset: Dataset, tmp_path: Path) -> None:
    features = compute_features(tiny_sam, dataset, folder=tmp_path)
    (features.folder / "digests.json").write_text("{")
    assert compute_features(tiny_sam, dataset, folder=tmp_path).rows.tolist() == features.rows.tolist()
    assert len(json.loads((features.folder / "digests.json").read_text())) == len(dataset)


def test_one_process_writes(tiny_sam: Sam, dataset: Dataset, tmp_path: Path) -> None:
    features = compute_features(tiny_sam, dataset, folder=tmp_path)
    with FolderLock(features.folder, "wait"), pytest.raises(RunError, match="is writing there"):
        compute_features(tiny_sam, dataset, folder=tmp_path)
