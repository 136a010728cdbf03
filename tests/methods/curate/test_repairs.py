"""Repairs at the images' own resolution, of semantic masks and of instances; and how they are accepted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data import manifest
from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Labels, Mask, Sample
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError
from maskwright.methods.curate import repairs
from maskwright.methods.curate.audit import Suspect
from maskwright.methods.curate.audit_files import apply_repairs, write_audit
from maskwright.methods.curate.evidence import Proposal
from maskwright.methods.curate.planted_errors import ERROR_KINDS
from maskwright.methods.curate.regions import iou, moved
from maskwright.sam.sam import Sam

WIDTH, HEIGHT = 256, 192


def box(x0: float, y0: float, x1: float, y1: float, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """A rectangle in shares of the image, as (H, W) bool."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    return (x >= x0 * size[0]) & (x < x1 * size[0]) & (y >= y0 * size[1]) & (y < y1 * size[1])


def grid(*corners: float) -> np.ndarray:
    return box(*corners, size=(128, 128))


def dataset_of(
    folder: Path, masks: list[np.ndarray], kind: str = "semantic", categories: dict | None = None
) -> Dataset:
    samples = []
    for number, mask in enumerate(masks):
        name = f"s{number}"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 + number, np.uint8)).save(folder / f"images/{name}.png")
        write_mask(folder / f"masks/{name}.png", mask)
        label = Mask(f"masks/{name}.png", kind, categories or {})  # type: ignore[arg-type]
        samples.append(Sample(name, f"images/{name}.png", "train", Labels(mask=label)))
    dataset = Dataset(folder, ("background", "cup", "plate"), tuple(samples))
    manifest.write(dataset)
    return Dataset.load(folder)


def suspect(kind: str, proposal: Proposal | None, place: int = 0, wrong: float = 0.7) -> Suspect:
    probabilities = {name: wrong * (name == kind) for name in ERROR_KINDS}
    return Suspect(place, wrong, kind, probabilities, proposal)  # type: ignore[arg-type]


NOTHING = np.zeros((128, 128), bool)


@pytest.fixture
def outline(monkeypatch):
    """SAM's answer, whatever it is asked."""

    def set_to(region: np.ndarray) -> None:
        monkeypatch.setattr(repairs, "_outlined", lambda *_: region)

    return set_to


def test_a_shifted_mask_moves_back_by_pixels_of_the_image(tiny_sam: Sam, tmp_path: Path) -> None:
    truth = box(0.25, 0.25, 0.5, 0.75)
    wrong = moved(truth, 12, -16).astype(np.uint8)
    dataset = dataset_of(tmp_path, [wrong])
    region = np.asarray(Image.fromarray(wrong * 255).resize((128, 128), Image.Resampling.NEAREST)) > 0
    # 12 rows of 192 are 8 of 128, 16 columns of 256 are 8 of 128.
    proposal = Proposal(NOTHING, NOTHING, 1, (-8, 8), region)
    mended = repairs.repair(tiny_sam, dataset, dataset[0], suspect("shifted", proposal))
    assert mended is not None
    assert (mended.values == truth).all()
    assert mended.changed == int((truth != (wrong > 0)).sum())


def test_an_extra_part_goes_and_others_stay(tiny_sam: Sam, tmp_path: Path) -> None:
    keep, extra = box(0.1, 0.1, 0.4, 0.4), box(0.6, 0.5, 0.8, 0.9)
    dataset = dataset_of(tmp_path, [(keep | extra).astype(np.uint8)])
    proposal = Proposal(NOTHING, grid(0.6, 0.5, 0.8, 0.9), 1)
    mended = repairs.repair(tiny_sam, dataset, dataset[0], suspect("extra", proposal))
    assert mended is not None
    assert iou(mended.values == 1, keep) > 0.99


def test_what_was_missed_is_outlined_by_sam_where_that_agrees(tiny_sam: Sam, tmp_path: Path, outline) -> None:
    there, seen = box(0.1, 0.1, 0.4, 0.4), box(0.6, 0.5, 0.8, 0.9)
    dataset = dataset_of(tmp_path, [there.astype(np.uint8)])
    proposal = Proposal(grid(0.6, 0.5, 0.8, 0.9), NOTHING, 2)
    precise = box(0.61, 0.5, 0.8, 0.88)
    outline(precise)
    mended = repairs.repair(tiny_sam, dataset, dataset[0], suspect("missed", proposal))
    assert mended is not None
    assert (mended.values == there + 2 * precise).all()
    outline(box(0, 0, 1, 1))
    mended = repairs.repair(tiny_sam, dataset, dataset[0], suspect("missed", proposal))
    assert mended is not None
    assert iou(mended.values == 2, seen) > 0.97
    assert (mended.values == 1).sum() == there.sum()


def test_a_rough_outline_becomes_sams_and_unknown_pixels_stay(tiny_sam: Sam, tmp_path: Path, outline) -> None:
    rough = box(0.2, 0.2, 0.6, 0.8).astype(np.uint8)
    rough[:, :20] = 255
    dataset = dataset_of(tmp_path, [rough])
    fine = box(0.05, 0.3, 0.55, 0.7)
    outline(fine)
    proposal = Proposal(NOTHING, NOTHING, 1, None, grid(0.2, 0.2, 0.6, 0.8))
    mended = repairs.repair(tiny_sam, dataset, dataset[0], suspect("coarse", proposal))
    assert mended is not None
    assert (mended.values[:, 20:] == fine[:, 20:]).all()
    assert (mended.values[:, :20] == 255).all()


def test_instances_keep_their_ids_and_new_ones_get_new_ids(tiny_sam: Sam, tmp_path: Path, outline) -> None:
    first, second = box(0.1, 0.1, 0.4, 0.4), box(0.5, 0.5, 0.9, 0.9)
    ids = (7 * first + 9 * second).astype(np.uint16)
    dataset = dataset_of(tmp_path, [ids], "instance", {7: 1, 9: 2})
    outline(box(0.05, 0.1, 0.35, 0.4))
    rough = Proposal(NOTHING, NOTHING, 1, None, grid(0.1, 0.1, 0.4, 0.4))
    mended = repairs.repair(tiny_sam, dataset, dataset[0], suspect("coarse", rough))
    assert mended is not None
    assert ((mended.values == 7) == box(0.05, 0.1, 0.35, 0.4)).all()
    assert ((mended.values == 9) == second).all()
    outline(box(0.6, 0.1, 0.8, 0.3))
    missed = Proposal(grid(0.6, 0.1, 0.8, 0.3), NOTHING, 2)
    mended = repairs.repair(tiny_sam, dataset, dataset[0], suspect("missed", missed))
    assert mended is not None
    assert mended.mask.categories == {7: 1, 9: 2, 10: 2}
    assert ((mended.values == 10) == box(0.6, 0.1, 0.8, 0.3)).all()
    swapped = Proposal(grid(0.5, 0.5, 0.9, 0.9), NOTHING, 1)
    mended = repairs.repair(tiny_sam, dataset, dataset[0], suspect("swapped", swapped))
    assert mended is not None
    assert mended.mask.categories == {7: 1, 9: 1}
    assert (mended.values == ids).all()
    assert mended.changed == int(second.sum())


def test_a_swapped_category_is_named_anew(tiny_sam: Sam, tmp_path: Path) -> None:
    first, second = box(0.1, 0.1, 0.4, 0.4), box(0.5, 0.5, 0.9, 0.9)
    dataset = dataset_of(tmp_path, [(first + 2 * second).astype(np.uint8)])
    proposal = Proposal(grid(0.5, 0.5, 0.9, 0.9), NOTHING, 1)
    mended = repairs.repair(tiny_sam, dataset, dataset[0], suspect("swapped", proposal))
    assert mended is not None
    assert (mended.values == (first | second)).all()


def test_nothing_to_propose_and_nothing_to_change(tiny_sam: Sam, tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [box(0.1, 0.1, 0.4, 0.4).astype(np.uint8)])
    assert repairs.repair(tiny_sam, dataset, dataset[0], suspect("coarse", None)) is None
    nowhere = Proposal(NOTHING, grid(0.7, 0.7, 0.9, 0.9), 1)
    assert repairs.repair(tiny_sam, dataset, dataset[0], suspect("extra", nowhere)) is None


# ------------------------------------------------------------------------------------------------------- accepting


@pytest.fixture
def audited(tiny_sam: Sam, tmp_path: Path) -> tuple[Dataset, Path]:
    """Three masks with an extra part each, audited; of the third no repair can be proposed."""
    mask = (box(0.1, 0.1, 0.4, 0.4) | box(0.6, 0.5, 0.8, 0.9)).astype(np.uint8)
    dataset = dataset_of(tmp_path / "data", [mask] * 3)
    extra = Proposal(NOTHING, grid(0.6, 0.5, 0.8, 0.9), 1)
    suspects = [suspect("extra", extra, 0, 0.9), suspect("extra", extra, 1, 0.8), suspect("coarse", None, 2, 0.2)]
    out = tmp_path / "audit"
    write_audit(tiny_sam, dataset, suspects, out, most=9, judged=3, notes=["A note."], settings={"seed": 0})
    return dataset, out


def test_the_folder_of_an_audit(audited: tuple[Dataset, Path]) -> None:
    _, out = audited
    content = json.loads((out / "audit.json").read_text())
    assert [entry["id"] for entry in content["suspects"]] == ["s0", "s1", "s2"]
    assert content["suspects"][2]["repair"] is None
    assert sorted(path.name for path in (out / "repairs").iterdir()) == ["s0.png", "s1.png"]
    page = (out / "report.html").read_text()
    assert "s0: extra, 90%" in page
    assert "A note." in page
    lines = [line for line in (out / "repairs.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line.split() for line in lines] == [["no", "extra", "0.90", "s0"], ["no", "extra", "0.80", "s1"]]


def test_accepted_repairs_make_a_new_dataset(audited: tuple[Dataset, Path], tmp_path: Path) -> None:
    dataset, out = audited
    before = {path: path.read_bytes() for path in sorted(dataset.root.rglob("*.png"))}
    choices = out / "repairs.txt"
    choices.write_text(choices.read_text().replace("no        extra    0.80", "YES extra 0.80"))
    applied = apply_repairs(dataset, choices, tmp_path / "new")
    assert [change.kind for change in applied.changes] == ["extra"]
    new = Dataset.load(tmp_path / "new")
    assert check(new) == []
    keep = box(0.1, 0.1, 0.4, 0.4)
    assert iou(read_mask(tmp_path / "new/masks/s1.png") == 1, keep) > 0.99
    assert (read_mask(tmp_path / "new/masks/s0.png") == read_mask(dataset.root / "masks/s0.png")).all()
    log = json.loads((tmp_path / "new/repaired.json").read_text())
    assert log["changes"][0]["file"] == str(dataset.root / "masks/s1.png")
    assert {path: path.read_bytes() for path in sorted(dataset.root.rglob("*.png"))} == before


def test_everything_that_cannot_be_accepted_is_said_at_once(audited: tuple[Dataset, Path], tmp_path: Path) -> None:
    dataset, out = audited
    choices = out / "repairs.txt"
    choices.write_text("yes extra 0.9 s0\nperhaps extra 0.8 s1\nyes coarse 0.2 s2\nyes extra 0.1 other\n")
    write_mask(dataset.root / "masks/s0.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(DataError) as error:
        apply_repairs(dataset, choices, tmp_path / "new")
    text = "\n".join(error.value.problems)
    for part in ("line 1", "is not the mask that was audited", "line 2", "'perhaps", "no repair", "'other'"):
        assert part in text
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("lines", ["", "# nothing\n", "no extra 0.9 s0\n"])
def test_without_a_yes_nothing_is_written(audited: tuple[Dataset, Path], tmp_path: Path, lines: str) -> None:
    dataset, out = audited
    (out / "repairs.txt").write_text(lines)
    with pytest.raises(DataError, match="no repair is accepted"):
        apply_repairs(dataset, out / "repairs.txt", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_dataset_and_no_audit(audited: tuple[Dataset, Path], tmp_path: Path) -> None:
    dataset, out = audited
    (out / "repairs.txt").write_text("yes extra 0.9 s0\n")
    other = dataset.with_samples([replace(dataset[0], labels=Labels())])
    with pytest.raises(DataError, match="has no mask"):
        apply_repairs(other, out / "repairs.txt", tmp_path / "new")
    with pytest.raises(DataError, match="is not there"):
        apply_repairs(dataset, tmp_path / "none/repairs.txt", tmp_path / "new")
    (out / "audit.json").write_text("[]")
    with pytest.raises(DataError, match="is no audit"):
        apply_repairs(dataset, out / "repairs.txt", tmp_path / "new")
