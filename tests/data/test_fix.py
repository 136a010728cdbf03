"""A mended copy holds the right labels, is clean, says what was changed, and is there whole or not at all."""

import io
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import maskwright
from maskwright.cli import main
from maskwright.data.dataset import Dataset
from maskwright.data.fix import Fixed, Mending, fix
from maskwright.data.images import read_image
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError

SIZE = (96, 64)
"""Width and height of the images here."""


def blob(seed: int) -> NDArray[np.uint8]:
    """An object of 0 and 1: an ellipse and a polygon apart from each other."""
    rng = np.random.default_rng(seed)
    picture = Image.new("L", SIZE)
    draw = ImageDraw.Draw(picture)
    x, y = rng.integers(4, 14, 2).tolist()
    draw.ellipse((x, y, x + 26, y + 22), fill=1)
    draw.polygon([(60 + x, y), (88, 50), (56, 40 + y)], fill=1)
    return np.array(picture)


def photo(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8))


def folders(root: Path, masks: dict[str, Any], **images: Image.Image) -> Path:
    """``images/`` and ``masks/``: file name of a mask → its pixels or its bytes; an image for each."""
    for i, (name, mask) in enumerate(masks.items()):
        stem = name.rpartition(".")[0]
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        images.get(stem, photo(i)).save(root / "images" / f"{stem}.png")
        if isinstance(mask, bytes):
            (root / "masks" / name).write_bytes(mask)
        else:
            Image.fromarray(mask).save(root / "masks" / name)
    return root


def manifest(root: Path, samples: list[dict[str, Any]], categories: tuple[str, ...] = ("background", "cell")) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    document = {"version": 1, "categories": list(categories), "samples": samples}
    (root / "manifest.json").write_text(json.dumps(document))
    return root


def jpeg(mask: NDArray[Any], white: int = 255, quality: int = 80, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((mask * white).astype(np.uint8)).convert(mode).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def soft(mask: NDArray[Any], white: int = 255) -> NDArray[np.uint8]:
    """With antialiased edges: drawn larger and brought down."""
    large = Image.fromarray((mask * white).astype(np.uint8)).resize(
        (4 * SIZE[0], 4 * SIZE[1]), Image.Resampling.BICUBIC
    )
    return np.array(large.resize(SIZE, Image.Resampling.BOX))


def mend_as_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str = "") -> Dataset:
    """Check, which refuses and prints one command; run it, but for its target; check what it wrote."""
    assert main(["data", "check", str(data)]) == 1
    told = capsys.readouterr().out
    command = shlex.split(told.strip().splitlines()[-1])
    assert command[:4] == ["maskwright", "data", "fix", str(data)]
    assert command[4:6] == ["--out", f"{data}-fixed"]
    assert " ".join(command[6:]) == options
    assert main(command[1:]) == 0
    assert f"written: {data}-fixed" in capsys.readouterr().out
    assert main(["data", "check", f"{data}-fixed"]) == 0
    assert "no problems" in capsys.readouterr().out
    assert json.loads((Path(f"{data}-fixed") / "fixed.json").read_text())["counts"]
    return Dataset.load(f"{data}-fixed")


def masks_of(dataset: Dataset) -> list[NDArray[Any]]:
    paths = [dataset.mask_path(sample) for sample in sorted(dataset, key=lambda sample: sample.id)]
    return [read_mask(path) for path in paths if path]


def assert_masks(dataset: Dataset, *expected: NDArray[Any]) -> None:
    for mask, right in zip(masks_of(dataset), expected, strict=True):
        np.testing.assert_array_equal(mask, right)


# ---------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("white", [128, 255])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_jpeg_masks_under_either_name(white: int, suffix: str, tmp_path: Path, capsys) -> None:
    data = folders(tmp_path / "d", {f"{n}.{suffix}": jpeg(blob(i), white) for i, n in enumerate("ab")})
    dataset = mend_as_told(data, tmp_path, capsys)
    assert_masks(dataset, blob(0), blob(1))
    changes = json.loads((tmp_path / "d-fixed" / "fixed.json").read_text())
    assert changes["counts"] == {"grey-mask": 2}
    exact = [Image.open(io.BytesIO(jpeg(blob(i), white))) for i in range(2)]
    moved = sum(int(np.isin(np.array(picture), [0, white], invert=True).sum()) for picture in exact)
    assert changes["pixels"] == {"grey-mask": moved}


@pytest.mark.parametrize("white", [128, 255])
def test_soft_edges_are_cut_at_half(white: int, tmp_path: Path, capsys) -> None:
    data = folders(tmp_path / "d", {f"{n}.png": soft(blob(i), white) for i, n in enumerate("ab")})
    assert_masks(mend_as_told(data, tmp_path, capsys), *(soft(blob(i), white) >= white / 2 for i in range(2)))


def test_the_threshold_may_be_chosen(tmp_path: Path) -> None:
    data = folders(tmp_path / "d", {"a.png": soft(blob(0))})
    fix(data, tmp_path / "low", Mending(threshold=0.1))
    assert_masks(Dataset.load(tmp_path / "low"), soft(blob(0)) >= 25.5)
    with pytest.raises(DataError, match="between 0 and 1"):
        Mending(threshold=1.5)


def test_soft_masks_of_a_manifest(tmp_path: Path, capsys) -> None:
    folders(tmp_path / "d", {"a.png": soft(blob(0)), "b.png": blob(1)})
    rows = [{"id": n, "image": f"images/{n}.png", "labels": {"mask": {"path": f"masks/{n}.png"}}} for n in "ab"]
    assert_masks(mend_as_told(manifest(tmp_path / "d", rows), tmp_path, capsys), soft(blob(0)) >= 127.5, blob(1))


def test_one_convention_for_all(tmp_path: Path, capsys) -> None:
    whites = {"a": 1, "b": 255, "c": 128}
    data = folders(
        tmp_path / "d", {f"{n}.png": (blob(i) * w).astype(np.uint8) for i, (n, w) in enumerate(whites.items())}
    )
    assert_masks(mend_as_told(data, tmp_path, capsys), blob(0), blob(1), blob(2))


@pytest.mark.parametrize("split", ["train", "test"])
def test_white_masks_beside_masks_of_1_wherever_they_are(split: str, tmp_path: Path, capsys) -> None:
    folders(tmp_path / "d", {"a.png": blob(0), "b.png": blob(1) * 255, "c.png": blob(2) * 255})
    rows = [{"id": n, "image": f"images/{n}.png", "labels": {"mask": {"path": f"masks/{n}.png"}}} for n in "abc"]
    for row in rows[1:]:
        row["split"] = split
    data = manifest(tmp_path / "d", rows)
    (problem,) = maskwright.check(data).problems
    assert "1 of 0/1" in problem
    assert "2 of 0/255" in problem
    assert split in problem
    assert_masks(mend_as_told(data, tmp_path, capsys), blob(0), blob(1), blob(2))


def test_real_ignored_pixels_stay(tmp_path: Path) -> None:
    ignoring = blob(0)
    ignoring[:3] = 255
    only = np.zeros_like(ignoring)
    only[:5] = 255
    data = folders(tmp_path / "d", {"a.png": ignoring, "b.png": only, "c.png": blob(2)})
    assert maskwright.check(data).problems == []
    assert fix(data, tmp_path / "out").changes == ()
    assert_masks(Dataset.load(tmp_path / "out"), ignoring, only, blob(2))


def refused(data: Path, out: Path, **options: Any) -> str:
    before = sorted(path for path in out.parent.rglob("*"))
    with pytest.raises(DataError) as error:
        fix(data, out, Mending(**options))
    assert sorted(path for path in out.parent.rglob("*")) == before, "nothing may be left behind"
    assert "nothing is written" in str(error.value)
    return str(error.value)


def test_more_than_two_levels_are_no_soft_edge(tmp_path: Path) -> None:
    three = soft(blob(0))
    three[50:60, 5:30] = 127
    folders(tmp_path / "d", {"a.png": three, "b.png": soft(blob(1))})
    refused(tmp_path / "d", tmp_path / "out")
    rows = [{"id": n, "image": f"images/{n}.png", "labels": {"mask": {"path": f"masks/{n}.png"}}} for n in "ab"]
    told = refused(manifest(tmp_path / "d", rows), tmp_path / "out")
    assert re.search(r"a\.png: \d+ pixels lie in even areas of grey \(about 127\), as of a second category", told)
    assert "masks/b.png: " not in told


def test_jpeg_masks_of_several_categories_are_lost(tmp_path: Path) -> None:
    folders(tmp_path / "d", {"a.jpg": jpeg(blob(0)), "b.jpg": jpeg(blob(1))})
    rows = [{"id": n, "image": f"images/{n}.png", "labels": {"mask": {"path": f"masks/{n}.jpg"}}} for n in "ab"]
    told = refused(manifest(tmp_path / "d", rows, ("background", "cat", "dog")), tmp_path / "out")
    assert told.count("export the masks anew as PNG") == 2


def test_masks_in_colours_are_not_guessed(tmp_path: Path) -> None:
    red = np.stack([blob(0) * 255, blob(0) * 0, blob(0) * 0], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(red).save(buffer, "JPEG")
    data = folders(tmp_path / "d", {"a.jpg": buffer.getvalue()})
    assert "colour" in refused(data, tmp_path / "out")


def test_grey_jpeg_masks_in_rgb(tmp_path: Path) -> None:
    fix(folders(tmp_path / "d", {"a.jpg": jpeg(blob(0), mode="RGB")}), tmp_path / "out")
    assert_masks(Dataset.load(tmp_path / "out"), blob(0))


def test_objects_out_of_connected_parts(tmp_path: Path) -> None:
    two = blob(0)
    two[50:60, 5:15] = 2
    two[0, 0] = 255
    folders(tmp_path / "d", {"a.png": two})
    row = {"id": "a", "image": "images/a.png", "labels": {"mask": {"path": "masks/a.png"}}}
    data = manifest(tmp_path / "d", [row], ("background", "cat", "dog"))
    fixed = fix(data, tmp_path / "out", Mending(instances=True))
    (sample,) = Dataset.load(tmp_path / "out")
    mask = sample.labels.mask
    assert mask is not None
    ids = masks_of(Dataset.load(tmp_path / "out"))[0]
    assert (mask.kind, mask.categories, set(np.unique(ids))) == ("instance", {3: 2}, {0, 1, 2, 3})
    assert (ids[two == 2] == 3).all()
    assert ((ids > 0) == ((two > 0) & (two < 255))).all()
    assert fixed.pixels["ignored-lost"] == 1


def test_categories_out_of_binary_masks_of_16_bits(tmp_path: Path) -> None:
    data = folders(tmp_path / "d", {f"{n}.png": blob(i).astype(np.uint16) for i, n in enumerate("ab")})
    result = maskwright.check(data)
    assert result.problems == []
    (warning,) = [w for w in result.warnings if w.kind == "single-id"]
    assert "have the id 1, as in" in warning
    assert f"maskwright data fix {data} --out {data}-fixed --semantic" in warning
    fix(data, tmp_path / "out", Mending(semantic=True))
    dataset = Dataset.load(tmp_path / "out")
    assert {s.labels.mask.kind for s in dataset if s.labels.mask} == {"semantic"}
    assert_masks(dataset, blob(0), blob(1))


# ------------------------------------------------------------------------------------------- boxes and images


def test_boxes_are_cut_off_at_the_border(tmp_path: Path, capsys) -> None:
    folders(tmp_path / "d", {"a.png": blob(0)})
    boxes = [{"xyxy": [-20, 3, 30, 40], "category": "cell"}, {"xyxy": [50, -0.5, 96.4, 64.2], "category": "cell"}]
    data = manifest(tmp_path / "d", [{"id": "a", "image": "images/a.png", "labels": {"boxes": boxes}}])
    result = maskwright.check(data)
    assert [p.kind for p in result.problems] == ["box-outside"]
    assert [w.kind for w in result.warnings] == ["box-over-border"]
    (sample,) = mend_as_told(data, tmp_path, capsys)
    assert [box.xyxy for box in sample.labels.boxes] == [(0, 3, 30, 40), (50, 0, 96, 64)]


@pytest.mark.parametrize("box", [[100, 3, 120, 40], [10, 10, 10, 20], [-20, 0, 0, 9]])
def test_boxes_without_a_pixel_of_the_image_are_refused(box: list[float], tmp_path: Path) -> None:
    folders(tmp_path / "d", {"a.png": blob(0)})
    rows = [{"id": "a", "image": "images/a.png", "labels": {"boxes": [{"xyxy": box, "category": "cell"}]}}]
    told = refused(manifest(tmp_path / "d", rows), tmp_path / "out")
    assert str(tmp_path / "d" / "manifest.json") in told
    assert "boxes[0]" in told
    assert "data fix" not in told


def damaged_png(content: bytes) -> bytes:
    """The same with a wrong checksum of its pixels."""
    at = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[at - 4 : at])
    end = at + 4 + length
    return content[:end] + struct.pack(">I", zlib.crc32(b"other")) + content[end + 4 :]


def test_damaged_images_that_are_whole_are_written_anew(tmp_path: Path, capsys) -> None:
    data = folders(tmp_path / "d", {"a.png": blob(0), "b.png": blob(1)})
    path = data / "images" / "a.png"
    pixels = read_image(path)
    path.write_bytes(damaged_png(path.read_bytes()))
    picture = io.BytesIO()
    photo(1).save(picture, "JPEG", quality=95)
    (data / "images" / "b.png").unlink()
    (data / "images" / "b.jpg").write_bytes(picture.getvalue()[:-2])
    damaged = path.read_bytes()
    dataset = mend_as_told(data, tmp_path, capsys)
    np.testing.assert_array_equal(read_image(dataset.image_path(dataset[0])), pixels)
    np.testing.assert_array_equal(read_image(dataset.image_path(dataset[1])), np.array(Image.open(picture)))
    assert path.read_bytes() == damaged


def test_images_that_have_lost_pixels_are_refused(tmp_path: Path) -> None:
    data = folders(tmp_path / "d", {"a.png": blob(0)})
    path = data / "images" / "a.png"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 400] ^= 4
    path.write_bytes(content)
    assert f"{path}: " in refused(data, tmp_path / "out")
    picture = io.BytesIO()
    photo(1).save(picture, "JPEG", quality=95)
    path.unlink()
    path.with_suffix(".jpg").write_bytes(picture.getvalue()[: len(picture.getvalue()) // 2])
    assert f"{path.with_suffix('.jpg')}: " in refused(data, tmp_path / "out")


# --------------------------------------------------------------------------------------------------- the copy


def test_never_in_place_and_only_into_a_new_folder(tmp_path: Path) -> None:
    data = folders(tmp_path / "d", {"a.png": soft(blob(0))})
    for out in (data, data / "images", data / "new"):
        with pytest.raises(DataError, match=r"is there already|lies in the dataset's folder"):
            fix(data, out)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fix(data, empty).folder == empty
    with pytest.raises(DataError, match="is there already"):
        fix(data, empty)


def test_the_dataset_stays_as_it_is(tmp_path: Path) -> None:
    data = folders(tmp_path / "d", {"a.png": soft(blob(0)), "b.png": blob(1), "c.jpg": jpeg(blob(2))})
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.rglob("*") if path.is_file()}
    fix(data, tmp_path / "out")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert not {path for path in data.rglob("*") if path.is_file()} - before.keys()


def test_a_clean_dataset_is_copied_and_nothing_changed(tmp_path: Path, capsys) -> None:
    data = folders(tmp_path / "d", {"a.png": blob(0), "b.png": blob(1)})
    assert main(["data", "fix", str(data), "--out", str(tmp_path / "out")]) == 0
    assert "nothing needed mending" in capsys.readouterr().out
    old, new = Dataset.load(data), Dataset.load(tmp_path / "out")
    assert [s.labels.kind for s in old] == [s.labels.kind for s in new]
    assert_masks(new, *masks_of(old))


KILLED = """
import sys
from pathlib import Path
from maskwright.data import fix as package
real = package.manifest.write
def slow(*args):
    print("half", flush=True)
    import time; time.sleep(60)
package.manifest.write = slow
package.fix(sys.argv[1], sys.argv[2])
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_copy_that_is_killed_is_not_taken_for_whole(tmp_path: Path) -> None:
    data = folders(tmp_path / "d", {f"{n}.png": soft(blob(i)) for i, n in enumerate("abcd")})
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED, data, out], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out-")], "it was under way"
    fix(data, out)
    assert_masks(Dataset.load(out), *(soft(blob(i)) >= 127.5 for i in range(4)))


def test_in_python_and_as_json(tmp_path: Path, capsys) -> None:
    data = folders(tmp_path / "d", {"a.png": soft(blob(0)), "b.png": blob(1) * 255})
    fixed = maskwright.fix(data, tmp_path / "one")
    assert isinstance(fixed, Fixed)
    assert fixed.counts == {"grey-mask": 1, "mask-convention": 1}
    assert {Path(change.file) for change in fixed.changes} == {data / "masks" / "a.png", data / "masks" / "b.png"}
    assert main(["data", "fix", str(data), "--out", str(tmp_path / "two"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "two" / "fixed.json").read_text())
    assert told["counts"] == fixed.counts
