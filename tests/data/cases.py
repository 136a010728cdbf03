"""Small datasets as people and tools make them, and what is right for each; made in a folder of the test's own.

Each case is named after the report or fault that it follows. ``tests/data/test_cases.py`` reads them all.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from tests.data.tiffs import write_tiff

SIZE = (64, 48)
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


@dataclass(frozen=True)
class Case:
    """A dataset and what the check must say.

    Attributes:
        make: writes it into a folder.
        outcome: ``read`` (no problem), ``fix`` (refused, and every problem of the kind has the command that mends it) or
            ``refuse`` (refused, and no command helps).
        kinds: of the problems; of the warnings where it is read. In any order, each once.
        says: texts that are in the lines.
        facts: of what is read: name → expected, see ``test_cases``.
    """

    make: Callable[[Path], Any]
    outcome: str
    kinds: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(name: str, outcome: str, *kinds: str, says: str | tuple[str, ...] = (), **facts: Any) -> Callable:
    def add(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
        CASES[name] = Case(make, outcome, kinds, (says,) if isinstance(says, str) else says, facts)
        return make

    return add


def picture(path: Path, size: tuple[int, int] = SIZE, seed: int | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(zlib.crc32(str(path.name).encode()) if seed is None else seed)
    Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path, **options)


def disk(value: int = 1, dtype: type = np.uint8) -> np.ndarray:
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.where((x - 30) ** 2 + (y - 24) ** 2 < 144, value, 0).astype(dtype)


AREA = int(disk().sum())


def folder(root: Path, masks: dict[str, np.ndarray | Image.Image], suffix: str = ".png", **options: Any) -> None:
    """``images/<stem>.jpg`` and ``masks/<stem><suffix>``."""
    (root / "masks").mkdir(parents=True, exist_ok=True)
    for stem, mask in masks.items():
        picture(root / "images" / f"{stem}.jpg")
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        image.save(root / "masks" / f"{stem}{suffix}", **options)


def coco(root: Path, annotations: list[dict], categories: list[dict] | None = None, names=("a.jpg", "b.jpg"), **more):
    """``annotations/instances_default.json`` and ``images/``; an annotation lacks nothing that it does not say itself."""
    for name in names:
        if not more.get("no_files"):
            picture(root / "images" / name.rpartition("/")[2])
    rows = [{"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for i, name in enumerate(names, 1)]
    for row, changes in zip(rows, more.get("images", ())):
        row.update(changes)
        for key in [key for key, value in row.items() if value is ...]:
            del row[key]
    full = [{"id": i, "image_id": 1, "category_id": 1, "iscrowd": 0} | a for i, a in enumerate(annotations, 1)]
    document = {"images": rows, "annotations": full, "categories": categories or [{"id": 1, "name": "cell"}]}
    file = root / more.get("file", "annotations/instances_default.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))


def polygon(*parts: Any, **more: Any) -> dict:
    return {"segmentation": list(parts), **more}


def runs(mask: np.ndarray, **more: Any) -> dict:
    flat = mask.astype(bool).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"segmentation": {"size": list(mask.shape), "counts": counts if not flat[0] else [0, *counts]}, **more}


def manifest(root: Path, *samples: dict, categories=("background", "polyp"), files=("a.jpg",)) -> None:
    for name in files:
        picture(root / "images" / name)
    (root / "masks").mkdir(parents=True, exist_ok=True)
    Image.fromarray(disk()).save(root / "masks" / "a.png")
    rows = [
        {"id": "a", "image": "images/a.jpg", "labels": {"mask": {"path": "masks/a.png"}}} | s for s in samples or ({},)
    ]
    (root / "manifest.json").write_text(json.dumps({"version": 1, "categories": list(categories), "samples": rows}))


# Crowds


@case("t01 all of a category are crowds", "read", "crowd", says="taken as objects", objects=2)
def _(root: Path) -> None:
    coco(root, [runs(disk(), iscrowd=1), runs(disk(), iscrowd=1, image_id=2)])


@case("t01b some are crowds", "read", "crowd", says=("left out", "become unlabelled", "b.jpg"), objects=1)
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE), runs(disk(), iscrowd=1), runs(disk(), iscrowd=1, image_id=2)])


@case("r05 iscrowd as text", "refuse", "truth-value", says=".iscrowd: must be 0 or 1, found '0'")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE, iscrowd="0"), polygon(SQUARE, image_id=2)])


@case("r05 iscrowd 2", "refuse", "truth-value", says="found 2")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE, iscrowd=2)])


@case("r06 labelled as text", "refuse", "other", says=".labelled: must be true or false, found 'true'")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], images=[{}, {"labelled": "true"}])


@case("r06 labelled as number", "refuse", "other", says=".labelled: must be true or false, found 1")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], images=[{}, {"labelled": 1}])


# Categories


@case("t03b a root category", "read", "root-category", says="'animals'", categories=("background", "cat", "dog"))
def _(root: Path) -> None:
    rows = [{"id": 0, "name": "animals", "supercategory": "none"}]
    rows += [{"id": i, "name": name, "supercategory": "animals"} for i, name in enumerate(("cat", "dog"), 1)]
    coco(root, [polygon(SQUARE), polygon(SQUARE, category_id=2, image_id=2)], rows)


@case("t03c _background_", "read", "root-category", categories=("background", "cat"))
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], [{"id": 0, "name": "_background_"}, {"id": 1, "name": "cat"}])


@case("a root category with annotations stays", "read", categories=("background", "animals", "cat"))
def _(root: Path) -> None:
    rows = [{"id": 0, "name": "animals"}, {"id": 1, "name": "cat", "supercategory": "animals"}]
    coco(root, [polygon(SQUARE), polygon(SQUARE, category_id=0, image_id=2)], rows)


@case("t51 Roboflow's three splits", "read", "root-category", categories=("background", "cell"), images=3)
def _(root: Path) -> None:
    rows = [{"id": 0, "name": "cells", "supercategory": "none"}, {"id": 1, "name": "cell", "supercategory": "cells"}]
    for split in ("train", "valid", "test"):
        name = f"{split}_jpg.rf.0a1b.jpg"
        coco(root / split, [polygon(SQUARE)], rows, [name], file="_annotations.coco.json")
        (root / split / "images" / name).rename(root / split / name)
        (root / split / "images").rmdir()


@case("a category's name with control characters", "refuse", "other", says="\\x1b[31m")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], [{"id": 1, "name": "\x1b[31mcell"}])


# Polygons and boxes


@case("t02 a polygon of two points", "fix", "degenerate-polygon", says="three vertices")
def _(root: Path) -> None:
    coco(root, [polygon([10, 10, 30, 30], bbox=[10, 10, 20, 20]), polygon(SQUARE, image_id=2)])


@case("t02b a stray point beside a polygon", "read", "degenerate-part", objects=1)
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE, [32.0, 24.0])])


@case("t02c an odd count", "fix", "degenerate-polygon")
def _(root: Path) -> None:
    coco(root, [polygon([10, 10, 30, 10, 30]), polygon(SQUARE)])


@case("t61 a flat polygon", "read", "flat-polygon", objects=1, area=400)
def _(root: Path) -> None:
    coco(root, [{"segmentation": SQUARE}])


@case("t46 a polygon far outside", "fix", "outline-outside", says="25% of its side")
def _(root: Path) -> None:
    coco(root, [polygon([-5, -5, 30, -5, 30, 60, -5, 60])])


@case("t46 a polygon a little outside", "read", "outline-outside", says="cut off there", objects=1)
def _(root: Path) -> None:
    coco(root, [polygon([-1, 4, 30, 4, 30, 48.5, -1, 48.5])])


@case("t11 boxes a little outside", "read", "box-outside", boxes=[(0, 3.2, 19.6, 23.2), (50, 30, 64, 48)])
def _(root: Path) -> None:
    coco(root, [{"bbox": [-0.5, 3.2, 20.1, 20]}, {"bbox": [50, 30, 14.6, 18.4], "image_id": 2}])


@case("t11 a box far outside", "fix", "box-outside")
def _(root: Path) -> None:
    coco(root, [{"bbox": [50, 30, 24, 10]}])


@case("t11b an empty box", "refuse", "empty-box")
def _(root: Path) -> None:
    coco(root, [{"bbox": [10, 10, 0, 20]}, {"bbox": [5, 5, 10, 10], "image_id": 2}])


@case("t45 keypoints only", "refuse", "no-shape", says="only keypoints")
def _(root: Path) -> None:
    coco(root, [{"keypoints": [10, 10, 2], "num_keypoints": 1}, polygon(SQUARE, image_id=2)])


@case("t47 objects smaller than a pixel", "read", "lost-object", "tiny-object")
def _(root: Path) -> None:
    tiny = [10.2, 10.2, 10.4, 10.2, 10.4, 10.4]
    coco(root, [polygon([10, 10, 11, 10, 11, 11, 10, 11]), polygon(tiny, image_id=2)])


# Masks


@case("t10d 0/1 beside 0/255", "fix", "mixed-masks", says="1 of 0/1, 1 of 0/255")
def _(root: Path) -> None:
    folder(root, {"a": disk(255), "b": disk(1)})


@case("t65 white masks in the test split alone", "fix", "mixed-masks", says=("train: 1 of 0/1", "test: 1 of 0/255"))
def _(root: Path) -> None:
    folder(root, {"a": disk(1), "b": disk(255)})
    (root / "splits.json").write_text('{"train": ["a"], "test": ["b"]}')


@case("t66 two categories as 0/127/255", "refuse", "unknown-category", "only-ignored")
def _(root: Path) -> None:
    values = np.where(disk() > 0, 255, 0).astype(np.uint8)
    values[:5, :5] = 127
    folder(root, {"a": values})
    (root / "splits.json").write_text('{"train": ["a"], "categories": ["background", "a", "b"]}')


@case("t07 white in RGB", "read", semantic=2, area=AREA)
def _(root: Path) -> None:
    folder(root, {stem: Image.fromarray(disk(255)).convert("RGB") for stem in "ab"})


@case("t07c ids in RGBA", "read", semantic=1, area=AREA)
def _(root: Path) -> None:
    folder(root, {"a": Image.merge("RGBA", [Image.fromarray(disk(1))] * 3 + [Image.new("L", SIZE, 255)])})


@case("a mask in the alpha channel", "refuse", "other", says="transparent where it matters")
def _(root: Path) -> None:
    empty = Image.new("L", SIZE)
    folder(root, {"a": Image.merge("RGBA", [empty, empty, empty, Image.fromarray(disk(255))])})


@case("colours", "refuse", "other", says="replace every colour by its category id")
def _(root: Path) -> None:
    folder(root, {"a": Image.merge("RGB", [Image.fromarray(disk(255)), *[Image.new("L", SIZE)] * 2])})


@case("t08 a JPEG mask", "fix", "lossy-mask")
def _(root: Path) -> None:
    folder(root, {"a": disk(255)}, ".jpg")


@case("t08b a JPEG mask named PNG", "fix", "lossy-mask")
def _(root: Path) -> None:
    folder(root, {"a": disk(255)}, ".png", format="JPEG")


@case("t09 grey edges", "fix", "grey-mask")
def _(root: Path) -> None:
    folder(root, {stem: Image.fromarray(disk(255)).filter(ImageFilter.GaussianBlur(1)) for stem in "ab"})


@case("t10c 0 and 128", "fix", "mask-convention", says="128")
def _(root: Path) -> None:
    folder(root, {stem: disk(128) for stem in "ab"})


@case("t10 white in 16 bits", "read", "16-bit", semantic=2, area=AREA)
def _(root: Path) -> None:
    folder(root, {stem: disk(65535, np.uint16) for stem in "ab"})


@case("t10b ids in a TIFF of 16 bits", "read", "16-bit", objects=1, area=AREA)
def _(root: Path) -> None:
    folder(root, {"a": disk(3, np.uint16)}, ".tif")


@case("t31 masks that are all empty", "refuse", "all-empty")
def _(root: Path) -> None:
    folder(root, {stem: disk(0) for stem in "ab"})


@case("t30 a mask of another size", "refuse", "mask-size")
def _(root: Path) -> None:
    folder(root, {"a": disk()[::2, ::2]})


# Names


@case("t04 back-slashes", "read", "back-slash", objects=1)
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], names=["images\\a.jpg"], no_files=True, file="result.json")
    picture(root / "images" / "a.jpg")


@case("t04 a path of another machine", "fix", "path-elsewhere", says="images/a.jpg")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], names=["D:\\data\\set 1\\a.jpg"], no_files=True)
    picture(root / "images" / "a.jpg")


@case("t04b a path that leaves the folder", "fix", "path-elsewhere", says="--root images")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], names=["../../media/upload/4/a.jpg"])


@case("a path that leaves the folder, to nowhere", "refuse", "path")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], names=["../../media/upload/4/a.jpg"], no_files=True)


@case("t33f an absolute path", "fix", "path-elsewhere", says="--root images")
def _(root: Path) -> None:
    manifest(root, {"image": "/data/somewhere/else/a.jpg"})


@case("t33i back-slashes in a manifest", "read", "back-slash")
def _(root: Path) -> None:
    manifest(root, {"image": "images\\a.jpg"})


@case("t43 URL codes", "read", "url-code", objects=1)
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], names=["my%20cell.jpg"], no_files=True)
    picture(root / "images" / "my cell.jpg")


@case("t42 another case of the suffix", "fix", "letter-case")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], names=["a.JPG"], no_files=True)
    picture(root / "images" / "a.jpg")


@case("t53 another case of the stem", "fix", "letter-case")
def _(root: Path) -> None:
    picture(root / "images" / "Scan_01.jpg")
    (root / "masks").mkdir()
    Image.fromarray(disk()).save(root / "masks" / "scan_01.png")


@case("t18 another Unicode form", "read", "unicode-form", semantic=1)
def _(root: Path) -> None:
    picture(root / "images" / "gro\u0308\u00dfe.jpg")
    (root / "masks").mkdir()
    Image.fromarray(disk()).save(root / "masks" / "gr\u00f6\u00dfe.png")


@case("t18 another Unicode form in COCO", "read", "unicode-form", objects=1)
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], names=["gr\u00f6\u00dfe.jpg"], no_files=True)
    picture(root / "images" / "gro\u0308\u00dfe.jpg")


@case("t55 stems with a suffix", "fix", "stem-with-suffix", says="write 'a', not 'a.jpg'")
def _(root: Path) -> None:
    folder(root, {"a": disk()})
    (root / "splits.json").write_text('{"train": ["a.jpg"]}')


@case("t19c a suffix for masks", "fix", "mask-suffix", says="call it a.png")
def _(root: Path) -> None:
    folder(root, {"a": disk()})
    (root / "masks" / "a.png").rename(root / "masks" / "a_segmentation.png")


@case("t19c a prefix for masks", "fix", "mask-suffix", says="call it a.png")
def _(root: Path) -> None:
    folder(root, {"a": disk()})
    (root / "masks" / "a.png").rename(root / "masks" / "mask_a.png")


@case("t19d labels/ instead of masks/", "fix", "masks-folder", says="labels/ holds images")
def _(root: Path) -> None:
    folder(root, {"a": disk()})
    (root / "masks").rename(root / "labels")


@case("t54 image/ and mask/", "fix", "images-folder", "masks-folder")
def _(root: Path) -> None:
    folder(root, {"a": disk()})
    (root / "masks").rename(root / "mask")
    (root / "images").rename(root / "image")


# Numbers and sizes


@case("t15 ids as text", "fix", "number-as-text", says="found the text '1'")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE, category_id="1")], [{"id": "1", "name": "cell"}])


@case("t77 an image's id as text", "fix", "number-as-text")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE, image_id="1")])


@case("t15 sizes as text", "fix", "number-as-text", says=".width")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], images=[{"width": "64"}])


@case("t15b sizes and ids as floats", "read", objects=1)
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE, category_id=1.0, image_id=1.0)], images=[{"width": 64.0, "height": 48.0}])


@case("t15b run lengths and crowds as floats", "read", objects=1, area=AREA)
def _(root: Path) -> None:
    row = runs(disk(), iscrowd=0.0)
    row["segmentation"]["counts"] = [float(count) for count in row["segmentation"]["counts"]]
    coco(root, [row])


@case("t15c no size", "fix", "no-size")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], images=[{"width": ..., "height": ...}])


@case("t63 a size that is not the file's", "refuse", "size", says=("128 x 96", "64 x 48"))
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], images=[{"width": 128, "height": 96}])


@case("t06 the size before the EXIF rotation", "refuse", "size", says=("64 x 48", "48 x 64", "EXIF"))
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / "images" / "a.jpg", exif=exif)


@case("t16 run lengths with width first", "refuse", "run-lengths", says="height comes first")
def _(root: Path) -> None:
    coco(root, [runs(disk().T)])


# Images


@case("t17 image modes", "read", "intensity", says=("images/u16.png", "images/f32.tif", "each is scaled by itself"))
def _(root: Path) -> None:
    folder(root, {name: disk() for name in ("u16", "f32", "cmyk")})
    for name in ("u16", "f32"):
        (root / "images" / f"{name}.jpg").unlink()
    Image.fromarray(np.full(SIZE[::-1], 900, np.uint16)).save(root / "images" / "u16.png")
    Image.fromarray(np.full(SIZE[::-1], 0.5, np.float32)).save(root / "images" / "f32.tif")
    Image.new("CMYK", SIZE, (10, 20, 30, 40)).save(root / "images" / "cmyk.jpg")


@case("t17d five channels of 16 bits", "refuse", "channels", says=("5 channels", "--channels 0,1,2"))
def _(root: Path) -> None:
    folder(root, {"a": disk()})
    (root / "images" / "a.jpg").unlink()
    write_tiff(root / "images" / "a.tif", np.full((SIZE[1], SIZE[0], 5), 900, np.uint16))


@case("t17b NaN", "refuse", "not-finite", says="NaN")
def _(root: Path) -> None:
    folder(root, {"a": disk()})
    values = np.ones((SIZE[1], SIZE[0]), np.float32)
    values[3, 3] = np.nan
    (root / "images" / "a.jpg").unlink()
    Image.fromarray(values).save(root / "images" / "a.tif")


@case("t17c pages", "refuse", "pages", says=("3 pages", "--page 0"))
def _(root: Path) -> None:
    folder(root, {"a": disk()})
    (root / "images" / "a.jpg").unlink()
    pages = [Image.new("L", SIZE, grey) for grey in (10, 20, 30)]
    pages[0].save(root / "images" / "a.tif", save_all=True, append_images=pages[1:])


@case("t58 many problems", "refuse", "other", "no-training", says="missing")
def _(root: Path) -> None:
    manifest(root, *({"id": f"n{i}", "image": f"images/{i}.jpg", "labels": {}} for i in range(100)))


# Crafted


def _crafted(**changes: Any) -> Callable[[Path], None]:
    return lambda root: coco(root, [polygon(SQUARE) | changes])


for name, counts in {
    "whose sum wraps": [2**63 - 1, 2**63 - 1, 770],
    "of 10^30": [10**30],
    "that are fractions": [1500.5, 1571.5],
    "that are texts": ["3072"],
    "that are negative": [-5, 3077],
    "that are truth values": [True, 3071],
    "that never end": "o" * 100_000,
    "that are cut short": "abc!!",
}.items():
    case(f"r02 run lengths {name}", "refuse", "other")(
        _crafted(segmentation={"size": [SIZE[1], SIZE[0]], "counts": counts})
    )
case("r08 a polygon of enormous edges", "refuse", "outline-outside")(
    _crafted(segmentation=[[v for i in range(12) for v in (1048000 * (-1) ** i, i)]])
)
case("a polygon that is not finite", "refuse", "outline-outside")(
    _crafted(segmentation=[[float("nan"), 10, 30, 10, 30, 30], [float("inf"), 1, 2, 3, 4, 5]])
)
case("a polygon of texts", "refuse", "polygon")(_crafted(segmentation=[["10", 10, 30, 10, 30, 30]]))
case("a polygon of truth values", "refuse", "polygon")(_crafted(segmentation=[[True, 10, 30, 10, 30, 30]]))


@case("r10 a name of 300 characters", "refuse", "path", says="longer than any file's name")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], names=["x" * 300 + ".jpg"], no_files=True)


@case("r11 a width of 10^400", "refuse", "size", says="more than 40 digits")
def _(root: Path) -> None:
    coco(root, [polygon(SQUARE)], images=[{"width": 10**400}])


@case("r12 an instance id of 4301 digits", "refuse", "other", says="is no instance id")
def _(root: Path) -> None:
    mask = {"path": "masks/a.png", "kind": "instance", "categories": {"1" * 4301: "polyp"}}
    manifest(root, {"labels": {"mask": mask}})


@case("r13 a root of 300 characters", "refuse", "other", says="is not there")
def _(root: Path) -> None:
    (root / "splits.json").write_text(json.dumps({"root": "x" * 300, "images": {}}))


@case("a declared size that no file has", "refuse", "size", says="14000 x 14000")
def _(root: Path) -> None:
    full = {"size": [14000, 14000], "counts": [0, 14000 * 14000]}
    coco(root, [polygon(SQUARE) | {"segmentation": full}] * 50, images=[{"width": 14000, "height": 14000}])


@case("r21 a tiny file of many pixels", "refuse", "other", says="cannot be in")
def _(root: Path) -> None:
    folder(root, {"a": disk()})
    (root / "images" / "a.jpg").unlink()
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 14000, 14000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0")),
        (b"IEND", b""),
    ]
    content = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    (root / "images" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)


# Other tools


@case("t19b nnU-Net", "read", images=1, semantic=1, categories=("background", "cell"), area=AREA)
def _(root: Path) -> None:
    picture(root / "imagesTr" / "case_001_0000.png")
    (root / "labelsTr").mkdir()
    Image.fromarray(disk()).save(root / "labelsTr" / "case_001.png")
    settings = {"channel_names": {"0": "R"}, "labels": {"background": 0, "cell": 1}, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(settings))


@case("t19b nnU-Net of two channels", "refuse", "channels", says="case_001 with _0000, _0001")
def _(root: Path) -> None:
    CASES["t19b nnU-Net"].make(root)
    picture(root / "imagesTr" / "case_001_0001.png")


@case("t28a YOLO", "read", "no-names", images=1, objects=1, area=26 * 24, categories=("background", "class_0"))
def _(root: Path) -> None:
    picture(root / "images" / "train" / "a.jpg")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n")


@case("t28b LabelMe", "read", images=1, objects=1, area=190, categories=("background", "cell"))
def _(root: Path) -> None:
    picture(root / "a.jpg")
    shape = {"label": "cell", "points": [[10, 10], [30, 10], [30, 30]], "shape_type": "polygon"}
    (root / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.jpg", "imageData": None}))


@case("t28c Pascal VOC", "read", "no-names", images=1, area=AREA, categories=("background", "object"))
def _(root: Path) -> None:
    picture(root / "JPEGImages" / "a.jpg")
    (root / "SegmentationClass").mkdir()
    Image.fromarray(disk()).convert("P").save(root / "SegmentationClass" / "a.png")


@case("t28e CVAT's XML", "read", images=1, objects=1, area=190, categories=("background", "cell"))
def _(root: Path) -> None:
    picture(root / "images" / "a.jpg")
    shape = '<polygon label="cell" points="10,10;30,10;30,30"/>'
    image = f'<image id="0" name="a.jpg" width="{SIZE[0]}" height="{SIZE[1]}">{shape}</image>'
    (root / "annotations.xml").write_text(f'<?xml version="1.0"?><annotations>{image}</annotations>')


@case("t28e CVAT's XML with a document type", "refuse", "other", says="has a document type")
def _(root: Path) -> None:
    CASES["t28e CVAT's XML"].make(root)
    path = root / "annotations.xml"
    path.write_text('<!DOCTYPE annotations [<!ENTITY b "c">]>' + path.read_text().partition("?>")[2])


@case("t28g Label Studio", "read", "chosen", images=1, objects=1, area=190, categories=("background", "cell"))
def _(root: Path) -> None:
    picture(root / "images" / "0a1b2c3d-a.jpg")
    points = [[100 * x / SIZE[0], 100 * y / SIZE[1]] for x, y in ((10, 10), (30, 10), (30, 30))]
    region = {"type": "polygonlabels", "value": {"points": points, "polygonlabels": ["cell"]}, "id": "x"}
    region |= {"original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0}
    tasks = [{"id": 1, "data": {"image": "/data/upload/4/0a1b2c3d-a.jpg"}, "annotations": [{"result": [region]}]}]
    (root / "project-4.json").write_text(json.dumps(tasks))
