"""`find` from a few masks: the thing is found where it is, and said not to be there where it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import maskwright
from maskwright.data.dataset import Dataset
from maskwright.errors import DataError, MaskwrightError

RED, GREEN = (200, 60, 50), (70, 140, 60)


def picture(seed: int, shows: bool) -> tuple[np.ndarray, np.ndarray]:
    """A noisy ground with a red disc, or a green bar instead; and the disc."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:160, :200]
    pixels = random.normal((120, 120, 128), 6, (160, 200, 3))
    cy, cx, r = random.integers(40, 120), random.integers(40, 160), random.integers(18, 32)
    disc = (y - cy) ** 2 + (x - cx) ** 2 <= r**2
    bar = (abs(y - cy) < 8) & (abs(x - cx) < 30)
    if shows:
        pixels[disc] = random.normal(RED, 6, (disc.sum(), 3))
    else:
        pixels[bar] = random.normal(GREEN, 6, (bar.sum(), 3))
    return pixels.clip(0, 255).astype(np.uint8), (disc & shows).astype(np.uint8)


def write(folder: Path, count: int, shows: bool, first: int, masks: bool, instances: bool = False) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(first, first + count):
        pixels, mask = picture(number, shows)
        Image.fromarray(pixels).save(folder / f"images/{number}.png")
        row: dict = {"id": str(number), "image": f"images/{number}.png", "split": "train", "labels": {}}
        if masks:
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / f"masks/{number}.png")
            row["labels"] = {"mask": {"path": f"masks/{number}.png", "kind": "instance" if instances else "semantic"}}
        samples.append(row)
    path = folder / "manifest.json"
    before = json.loads(path.read_text())["samples"] if path.exists() else []
    document = {"version": 1, "categories": ["background", "disc"], "samples": before + samples}
    path.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write(folder, 3, True, 0, masks=True)
    write(folder, 1, False, 10, masks=True)
    return folder


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    for number in range(6):
        Image.fromarray(picture(100 + number, shows=number < 3)[0]).save(folder / f"{number}.png")
    return folder


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float(((one > 0) & (other > 0)).sum()) / max(1, (one > 0).sum() + (other > 0).sum())


def test_discs_are_found_and_bars_are_not_discs(examples: Path, searched: Path, tmp_path: Path) -> None:
    result = maskwright.find(examples, searched, tmp_path / "out")
    rows = {row["name"]: row for row in json.loads((tmp_path / "out/predictions.json").read_text())["images"]}
    scores = [rows[str(number)]["find"]["disc"]["score"] for number in range(6)]
    assert min(scores[:3]) > max(scores[3:])
    for number in range(3):
        mask = np.asarray(Image.open(tmp_path / f"out/masks/{number}.png"))
        assert mask.shape == (160, 200)
        assert dice(mask, picture(100 + number, True)[1]) > 0.85
        assert rows[str(number)]["find"]["disc"]["verdict"] != "not there"
    assert sum(result.verdicts.values()) == 6
    assert any("answers about other things" in note for note in result.notes)


@pytest.mark.parametrize("count", [3, 9])
def test_what_is_not_there_has_an_empty_mask_which_is_a_label_where_enough_examples_say_so(
    searched: Path, tmp_path: Path, count: int
) -> None:
    write(tmp_path / "examples", count, True, 0, masks=True)
    write(tmp_path / "examples", 1, False, 20, masks=True)
    maskwright.find(tmp_path / "examples", searched, tmp_path / "out")
    rows = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    certain = {sample.id: sample for sample in Dataset.load(tmp_path / "out/certain.json")}
    assert len(certain) == count + 1 + 6
    labels = {"found", "not there"} if count == 9 else {"found"}
    for row in rows:
        verdict = row["find"]["disc"]["verdict"]
        mask = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
        assert (verdict == "not there") <= (not mask.any())
        assert (certain[row["name"]].labels.mask is not None) == (verdict in labels)
    assert not maskwright.check(tmp_path / "out/certain.json").problems
    assert not maskwright.check(tmp_path / "out").problems


def test_given_again_nothing_is_made_again_and_other_examples_are_refused(
    examples: Path, searched: Path, tmp_path: Path
) -> None:
    first = maskwright.find(examples, searched, tmp_path / "out")
    before = (tmp_path / "out/predictions.json").read_bytes()
    again = maskwright.find(examples, searched, tmp_path / "out")
    assert (first.summary.predicted, again.summary.predicted, again.summary.skipped) == (6, 0, 6)
    assert (tmp_path / "out/predictions.json").read_bytes() == before
    other = tmp_path / "other"
    write(other, 2, True, 50, masks=True)
    with pytest.raises(MaskwrightError, match="another model"):
        maskwright.find(other, searched, tmp_path / "out")


def test_an_interrupted_search_ends_as_one_that_was_not(examples: Path, searched: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    for number in range(3):
        (part / f"{number}.png").write_bytes((searched / f"{number}.png").read_bytes())
    for name in ("whole", "two"):
        if name == "two":
            maskwright.find(examples, sorted(searched.glob("*.png"))[:3], tmp_path / name, batch=1)
        maskwright.find(examples, searched, tmp_path / name, batch=1)
    for number in range(6):
        one, other = ((tmp_path / name / f"masks/{number}.png").read_bytes() for name in ("whole", "two"))
        assert one == other


def test_without_images_those_without_a_label_are_searched(examples: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, 2, True, 0, masks=True)
    write(data, 2, True, 200, masks=False)
    result = maskwright.find(data, None, tmp_path / "out")
    assert result.summary.predicted == 2
    assert {path.stem for path in (tmp_path / "out/masks").iterdir()} == {"200", "201"}
    with pytest.raises(DataError, match="all its images have labels; name the images"):
        maskwright.find(examples, None, tmp_path / "other")


def test_each_category_gets_an_answer_of_its_own(searched: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, 2, True, 0, masks=True)
    write(data, 2, False, 20, masks=True)
    for number in (20, 21):
        pixels = picture(number, False)[0].astype(int)
        bar = (pixels[..., 1] > pixels[..., 0] + 40).astype(np.uint8) * 2
        Image.fromarray(bar).save(data / f"masks/{number}.png")
    document = json.loads((data / "manifest.json").read_text())
    document["categories"] = ["background", "disc", "bar", "star"]
    (data / "manifest.json").write_text(json.dumps(document))
    result = maskwright.find(data, searched, tmp_path / "out")
    rows = {row["name"]: row for row in json.loads((tmp_path / "out/predictions.json").read_text())["images"]}
    assert set(rows["0"]["find"]) == {"disc", "bar"}
    for number in range(6):
        found = rows[str(number)]["find"]
        assert (found["disc"]["score"] > found["bar"]["score"]) == (number < 3)
    assert "not looked for, as no example shows it: star" in result.notes


def test_instances_are_found_as_objects(searched: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, 2, True, 0, masks=True, instances=True)
    maskwright.find(data, searched, tmp_path / "out")
    rows = {row["name"]: row for row in json.loads((tmp_path / "out/predictions.json").read_text())["images"]}
    assert rows["0"]["ids"] == 1
    assert not maskwright.check(tmp_path / "out/certain.json").problems


def test_ten_images_without_it_take_the_place_of_other_things(searched: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, 2, True, 0, masks=True)
    write(data, 9, False, 20, masks=True)
    result = maskwright.find(data, searched, tmp_path / "out")
    assert any("judged by your 9 examples without it" in note for note in result.notes)


def test_another_sam_says_nothing_without_examples_of_its_own(
    examples: Path, searched: Path, tmp_path: Path, tiny_sam_folder: Path
) -> None:
    result = maskwright.find(examples, searched, tmp_path / "out", sam=tiny_sam_folder)
    assert result.verdicts == {"unsure": 6, "found": 0, "not there": 0}
    assert any("never said" in note for note in result.notes)


def test_what_is_wrong_is_told_in_a_line(searched: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    write(empty, 2, False, 0, masks=True)
    with pytest.raises(DataError, match="none of the 2 masks shows an object"):
        maskwright.find(empty, searched, tmp_path / "out")
    bare = tmp_path / "bare"
    write(bare, 2, True, 0, masks=False)
    with pytest.raises(DataError, match=r"none of the 2 images has a mask.*maskwright label"):
        maskwright.find(bare, searched, tmp_path / "out")
    with pytest.raises(MaskwrightError, match=r"--alpha 0.7: must lie above 0 and below 0.5"):
        maskwright.find(empty, searched, tmp_path / "out", alpha=0.7)
    assert not (tmp_path / "out").exists()


def run_cli(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "maskwright", *map(str, args)], capture_output=True, text=True)


@pytest.mark.slow
def test_the_command(examples: Path, searched: Path, tmp_path: Path) -> None:
    done = run_cli("find", examples, searched, "--out", tmp_path / "out", "--to", "coco")
    assert done.returncode == 0, done.stderr
    assert "6 images: " in done.stdout
    assert (tmp_path / "out/coco").is_dir()
    assert (
        "Unsure" in (tmp_path / "out/report.html").read_text() or "Found" in (tmp_path / "out/report.html").read_text()
    )
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/broken.png").write_bytes(b"no image")
    done = run_cli("find", examples, tmp_path / "bad", "--out", tmp_path / "out2")
    assert done.returncode == 1
    assert "broken.png" in done.stderr
    assert "Traceback" not in done.stderr
