"""Try what reads datasets on damaged ones: mutated JSON of each format, mutated images and masks, single flipped bits.

    python tools/fuzz_readers.py                                  # all of it, an hour or two
    python tools/fuzz_readers.py --json 500 --files 500 --bits 200 --seed 7

Every input must be read, or refused with a ``DataError`` whose lines are printable. Anything else is a finding: another
exception, a crash, more than 10 seconds, more than 2 GB, and pixels of a PNG other than those that were written. Findings are
printed with the input's number, from which ``--only KIND:NUMBER`` makes it again, and their inputs are kept in ``--keep``.
The same seed gives the same inputs.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tyro
from PIL import Image

from maskwright.data.check import examine
from maskwright.data.dataset import Dataset
from maskwright.data.formats import brush
from maskwright.data.images import image_size, read_image
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError

SECONDS = 10
MEGABYTES = 2000
SIZE = (16, 12)


@dataclass
class Config:
    json: int = 10_000
    """Mutated JSON files of each format."""
    files: int = 5_000
    """Mutated images and masks."""
    bits: int = 1_000
    """Flipped bits for each kind of PNG."""
    seed: int = 0
    """Decides every input."""
    only: str = ""
    """One input alone, as it is named in a finding: KIND:NUMBER."""
    keep: Path = Path("fuzz-findings")
    """Folder for the inputs of findings."""


@dataclass(frozen=True)
class Finding:
    """An input that was neither read nor refused as it should be."""

    kind: str
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}: {self.what}"


# ----------------------------------------------------------------------------------------------------- mutated JSON

_TEXTS = (
    "",
    " ",
    "0",
    "1",
    "true",
    "a.png",
    "../a.png",
    "/a.png",
    "C:\\a.png",
    "images\\a.png",
    "\0",
    "\x1b[31m",
    "\u202e",
)
_TEXTS += (
    "x" * 300,
    "x" * 5000,
    "\ud800",
    "%00",
    "%2e%2e/a.png",
    "..",
    ".",
    "nan",
    "9" * 4301,
    "a" * 250 + ".png",
    "a\nb",
)
_NUMBERS = (0, 1, -1, 2, 255, 256, 65535, 65536, 2**31, 2**63, 10**40, 10**400, 0.5, 1e300, -1e300, 64.0, -0.0)
_NUMBERS += (math.inf, -math.inf, math.nan, 1e-320)
_OTHERS = (None, True, False, [], {}, [[]], [None], [0], {"": 0}, [[[[]]]], [0] * 1000, {"size": [1, 1], "counts": "1"})


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in parsed JSON."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def mutated(document: Any, random: np.random.Generator) -> Any:
    """A copy of parsed JSON with one to three values changed, removed, copied or swapped."""
    document = copy.deepcopy(document)
    for _ in range(random.integers(1, 4)):
        paths = [path for path in places(document) if path]
        if not paths:
            return document
        *parents, key = paths[random.integers(len(paths))]
        node = document
        for step in parents:
            node = node[step]
        change = random.integers(6)
        if change == 0:
            del node[key]
        elif change == 1 and isinstance(node, list):
            node.insert(key, copy.deepcopy(node[random.integers(len(node))]))
        elif change == 2:
            other = paths[random.integers(len(paths))]
            value = document
            for step in other:
                try:
                    value = value[step]
                except (KeyError, IndexError, TypeError):
                    value = None
                    break
            node[key] = copy.deepcopy(value)
        else:
            node[key] = another(node[key], random)
    return document


def another(value: Any, random: np.random.Generator) -> Any:
    """A value like this one and yet wrong, or of another kind."""
    choice = random.integers(4)
    if choice == 0 and isinstance(value, (int, float)) and not isinstance(value, bool):
        factor = [2, -1, 1000, 0.1, 1e6][random.integers(5)]
        return value * (factor if abs(value) < 1e300 else 2)
    if choice == 0 and isinstance(value, str):
        at = random.integers(len(value) + 1)
        return value[:at] + _TEXTS[random.integers(len(_TEXTS))] + value[at:]
    pool = (_TEXTS, _NUMBERS, _OTHERS)[random.integers(3)]
    return copy.deepcopy(pool[random.integers(len(pool))])


def as_text(document: Any, random: np.random.Generator) -> bytes:
    """A document as the bytes of a file; one of ten is damaged as text as well."""
    content = json.dumps(document).encode("utf-8", "surrogatepass")
    if random.integers(10) == 0:
        content = damaged(content, random)
    return content


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Bytes with some flipped, cut off, removed, doubled or put in."""
    data = bytearray(content)
    for _ in range(random.integers(1, 5)):
        if not data:
            break
        at, length = int(random.integers(len(data))), int(random.integers(1, 20))
        change = random.integers(6)
        if change == 0:
            data[at] ^= 1 << int(random.integers(8))
        elif change == 1:
            del data[at:]
        elif change == 2:
            del data[at : at + length]
        elif change == 3:
            data[at:at] = data[at : at + length]
        elif change == 4:
            data[at : at + length] = random.integers(0, 256, length, np.uint8).tobytes()
        else:
            data[at : at + 4] = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"][random.integers(3)]
    return bytes(data)


CVAT = """<annotations><version>1.1</version><meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels>
</task></meta>
<image id="0" name="a.png" width="16" height="12"><mask label="cat" rle="3, 5, 12" left="2" top="3" width="5" height="4" z_order="0"/>
<polygon label="dog" points="1,1;8,1.5;8,9" z_order="1" occluded="0"><attribute name="a">b</attribute></polygon></image>
<image id="1" name="b.png" width="16" height="12" subset="val"><box label="cat" xtl="1" ytl="2" xbr="8" ybr="9" rotation="30"/></image>
<image id="2" name="c.png" width="16" height="12"><polyline label="cat" points="1,1;5,5"/><points label="dog" points="3,3;4,4"/></image>
<image id="3" name="d.png" width="16" height="12" labelled="1"><tag label="dog"/><ellipse label="cat" cx="8" cy="6" rx="3" ry="2"/></image>
</annotations>"""


def mutated_xml(text: str, random: np.random.Generator) -> bytes:
    """XML with one to three elements or attributes changed, removed, copied or moved; one of ten is damaged as text as well."""
    root = ElementTree.fromstring(text)
    for _ in range(random.integers(1, 4)):
        parents = [(parent, child) for parent in root.iter() for child in parent]
        if not parents:
            break
        parent, child = parents[random.integers(len(parents))]
        keys, change = list(child.attrib), random.integers(8)
        if change == 0:
            parent.remove(child)
        elif change == 1:
            parent.append(copy.deepcopy(child))
        elif change == 2:
            child.append(copy.deepcopy(parents[random.integers(len(parents))][1]))
        elif change == 3:
            child.tag = parents[random.integers(len(parents))][1].tag
        elif change == 4:
            child.text = _as_xml(another(child.text or "", random))
        elif keys:
            key = keys[random.integers(len(keys))]
            if change == 5:
                del child.attrib[key]
            else:
                value = child.attrib[key]
                child.attrib[key] = _as_xml(another(float(value) if value.isdecimal() else value, random))
    content = ElementTree.tostring(root, "utf-8")
    return damaged(content, random) if random.integers(10) == 0 else content


def _as_xml(value: Any) -> str:
    """A value as text, without what XML cannot hold: that is tried by damaged bytes."""
    return "".join(c for c in str(value) if c in "\t\n" or " " <= c < "\ud800")


def write_base(root: Path) -> dict[str, tuple[str, Any]]:
    """Files of a small dataset in all formats. Returns format → name of its JSON (or XML) and what is in it (or its text)."""
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[2:8, 3:9] = 1
    for name in "abcd":
        Image.fromarray(random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    labels = [
        {"mask": {"path": "masks/a.png", "kind": "instance", "categories": {"1": "cat"}}},
        {"boxes": [{"xyxy": [1, 2, 8, 9], "category": "dog"}], "tags": ["dog"]},
        {"scribbles": [{"points": [[1, 1], [5, 5]], "category": "cat"}], "points": [{"xy": [3, 3], "category": "cat"}]},
        {"mask": {"path": "masks/d.png"}},
    ]
    manifest = {
        "version": 1,
        "categories": ["background", "cat", "dog"],
        "samples": [
            {"id": n, "image": f"images/{n}.png", "split": "train", "size": list(SIZE), "labels": row}
            for n, row in zip("abcd", labels)
        ],
    }
    run = {"size": [SIZE[1], SIZE[0]], "counts": [30, 5, 7, 5, 145]}
    shapes = [[[2, 2, 9, 2, 9, 9]], run, {"size": [SIZE[1], SIZE[0]], "counts": "n05752d4"}, None]
    coco = {
        "info": {"split": "train"},
        "images": [
            {"id": i, "file_name": f"{n}.png", "width": SIZE[0], "height": SIZE[1], "labelled": True}
            for i, n in enumerate("abcd", 1)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 7, "segmentation": s, "bbox": [1, 2, 5, 6], "iscrowd": i % 2}
            for i, s in enumerate(shapes, 1)
        ],
        "categories": [{"id": 7, "name": "cat", "supercategory": "animal"}, {"id": 8, "name": "animal"}],
    }
    for folder, name, content in (
        ("boxes", "b", {"boxes": [{"xyxy": [1, 2, 8, 9], "class_name": "cat", "class_id": 1}]}),
        ("points", "c", {"points": [{"xy": [3, 3], "label": 1, "class_name": "cat", "class_id": 1}]}),
    ):
        (root / folder).mkdir()
        (root / folder / f"{name}.json").write_text(json.dumps(content))
    samix = {
        "root": ".",
        "splits": {"train": ["a", "b", "c"], "test": ["d"]},
        "images": {
            n: {"file_name": f"images/{n}.png", "width": SIZE[0], "height": SIZE[1], "labels": {kind: path}}
            for n, kind, path in (
                ("a", "mask", "masks/a.png"),
                ("b", "box", "boxes/b.json"),
                ("c", "point", "points/c.json"),
                ("d", "mask", "masks/d.png"),
            )
        },
    }
    lists = {"train": ["a", "b"], "test": ["c", "d"], "categories": ["background", "cat"], "kind": "instance"}
    lists |= {"instances": {"a": {"1": "cat"}}, "ignore": 255}
    (root / "nnunet").mkdir()
    for folder, source, ending in (
        ("imagesTr", "images", "_0000"),
        ("imagesTs", "images", "_0000"),
        ("labelsTr", "masks", ""),
    ):
        (root / "nnunet" / folder).mkdir()
        for name in "ab" if folder.endswith("Tr") else "c":
            shutil.copy(root / source / f"{name}.png", root / "nnunet" / folder / f"{name}{ending}.png")
    nnunet = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "cat": 1, "dog": 2, "ignore": 3},
    }
    nnunet |= {"file_ending": ".png", "numTraining": 2}
    state = {"original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0, "to_name": "image"}
    regions = [
        {"type": "brushlabels", "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": ["cat"]}},
        {"type": "polygonlabels", "value": {"points": [[10, 10], [60, 10], [60, 60]], "polygonlabels": ["cat"]}},
        {"type": "ellipselabels", "value": {"x": 50, "y": 50, "radiusX": 9, "radiusY": 20, "ellipselabels": ["dog"]}},
        {"type": "rectangle", "value": {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}},
        {"type": "labels", "value": {"labels": ["cat"]}},
        {"type": "keypointlabels", "value": {"x": 50, "y": 50, "width": 1, "keypointlabels": ["cat"]}},
        {"type": "choices", "value": {"choices": ["dog"]}},
    ]
    regions = [{"id": "r", "from_name": "x", **state, **region} for region in regions]
    shares = {"a": regions[:1], "b": regions[1:3], "c": regions[3:5], "d": regions[5:]}
    tasks = [
        {
            "id": i,
            "data": {"image": f"/data/local-files/?d=images/{name}.png", "split": "train"},
            "annotations": [{"id": i, "result": share, "was_cancelled": False, "updated_at": "2024"}],
            "predictions": [{"result": share, "score": 0.5}],
        }
        for i, (name, share) in enumerate(shares.items())
    ]
    png = base64.b64encode((root / "masks" / "a.png").read_bytes()).decode()
    shapes = [
        ("mask", [[0, 0], [15, 11]], png),
        ("polygon", [[1, 1], [9, 1], [9, 9]], None),
        ("rectangle", [[1, 1], [9, 9]], None),
        ("circle", [[8, 6], [8, 8]], None),
        ("linestrip", [[1, 1], [2, 2], [3, 3]], None),
        ("point", [[4, 4]], None),
    ]
    labelme = {
        "version": "5.4.1",
        "flags": {"dog": True},
        "shapes": [
            {"label": "cat", "points": points, "group_id": None, "shape_type": kind, "flags": {}, "mask": text}
            for kind, points, text in shapes
        ],
        "imagePath": "images/a.png",
        "imageData": None,
        "imageHeight": SIZE[1],
        "imageWidth": SIZE[0],
    }
    found = {
        "format": "maskwright-predictions",
        "version": 2,
        "categories": ["background", "cat"],
        "images": [
            {
                "name": name,
                "file": f"/x/{name}.png",
                "image": f"images/{name}.png",
                "mask": f"masks/{name}.png",
                "size": list(SIZE),
            }
            for name in "abcd"
        ],
    }
    found["images"][0] |= {"ids": 1, "objects": [{"category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}]}
    return {
        "cvat": ("annotations.xml", CVAT),
        "label-studio": ("tasks.json", tasks),
        "labelme": ("labelme.json", labelme),
        "nnunet": ("nnunet/dataset.json", nnunet),
        "predictions": ("predictions.json", found),
        "manifest": ("manifest.json", manifest),
        "coco": ("coco.json", coco),
        "samix": ("splits_samix.json", samix),
        "folders": ("splits_folders.json", lists),
    }


# ------------------------------------------------------------------------------------------------ images and masks


def pictures() -> dict[str, bytes]:
    """A small file of each kind that is read: name with suffix → content."""
    random = np.random.default_rng(1)
    colours = Image.fromarray(random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8))
    grey = colours.convert("L")
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (colours, {}),
        "rgba.png": (colours.convert("RGBA"), {}),
        "grey.png": (grey, {}),
        "palette.png": (colours.quantize(16), {}),
        "bits.png": (colours.convert("1"), {}),
        "deep.png": (Image.fromarray(random.integers(0, 65536, SIZE[::-1], np.uint16)), {}),
        "animated.png": (colours, {"save_all": True, "append_images": [colours.rotate(90)]}),
        "rgb.jpg": (colours, {}),
        "progressive.jpg": (colours, {"progressive": True}),
        "rgb.tif": (colours, {}),
        "deflate.tif": (grey, {"compression": "tiff_adobe_deflate"}),
        "lzw.tif": (colours, {"compression": "tiff_lzw"}),
        "deep.tif": (Image.fromarray(random.integers(0, 65536, SIZE[::-1], np.uint16)), {}),
        "float.tif": (Image.fromarray(random.random(SIZE[::-1], np.float32)), {}),
        "pages.tif": (grey, {"save_all": True, "append_images": [grey, grey]}),
        "rgb.bmp": (colours, {}),
        "palette.gif": (colours.quantize(16), {}),
        "lossless.webp": (colours, {"lossless": True}),
        "rgb.webp": (colours, {}),
        "rgb.ppm": (colours, {}),
        "rgb.jp2": (colours, {}),
        "rgb.avif": (colours, {}),
    }
    files = {}
    for name, (image, options) in kinds.items():
        buffer = io.BytesIO()
        try:
            image.save(
                buffer,
                {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(name[-3:], name.rpartition(".")[2]),
                **options,
            )
        except (OSError, KeyError, ValueError):
            continue  # This Pillow cannot write the format.
        files[name] = buffer.getvalue()
    return files


# ------------------------------------------------------------------------------------------------------- the trials


class Trials:
    """Makes inputs by kind and number, and tries them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        os.environ["MASKWRIGHT_CACHE"] = str(folder / "cache")
        self.root = folder / "data"
        self.documents = write_base(self.root)
        self.pictures = pictures()
        self.pngs = [name for name in self.pictures if name.endswith(".png")]
        self.pixels = {name: _values(self._place(name, self.pictures[name])) for name in self.pngs}
        self.outcomes: Counter[str] = Counter()

    def kinds(self, json: int, files: int, bits: int) -> dict[str, int]:
        """How many inputs of each kind are tried."""
        return {**dict.fromkeys(self.documents, json), "file": files, **{f"bit-{name}": bits for name in self.pngs}}

    def input(self, kind: str, number: int) -> Path:
        """Write one input; the path of its file."""
        random = np.random.default_rng([self.seed, sum(kind.encode()), number])
        if kind in self.documents:
            name, document = self.documents[kind]
            xml = isinstance(document, str)
            content = mutated_xml(document, random) if xml else as_text(mutated(document, random), random)
            (self.root / name).write_bytes(content)
            return self.root / name
        if kind == "file":
            name = list(self.pictures)[random.integers(len(self.pictures))]
            return self._place(name, damaged(self.pictures[name], random))
        name = kind.removeprefix("bit-")
        data = bytearray(self.pictures[name])
        bit = int(random.integers(8 * len(data)))
        data[bit // 8] ^= 1 << (bit % 8)
        return self._place(name, bytes(data))

    def trial(self, kind: str, number: int) -> str | None:
        """What is wrong with how one input was handled; None where nothing is."""
        path = self.input(kind, number)
        start = time.monotonic()
        try:
            what = self._dataset(path) if kind in self.documents else self._file(path, kind)
        except Exception:
            return f"traceback: {traceback.format_exc(limit=-4)}"
        took = time.monotonic() - start
        if took > SECONDS:
            return f"took {took:.0f} s"
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return f"took {used} MB" if used > MEGABYTES else what

    def _dataset(self, path: Path) -> str | None:
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        try:
            report = examine(Dataset.load(path))
            lines = [*report.problems, *report.warnings]
            self.outcomes["refused by the check" if report.problems else "accepted"] += 1
        except DataError as error:
            lines = error.problems
            self.outcomes["refused by the reader"] += 1
        return next((f"not printable: {line!r}" for line in lines if not line.isprintable()), None)

    def _file(self, path: Path, kind: str) -> str | None:
        accepted = 0
        for read in (image_size, read_image, read_mask):
            try:
                values = read(path)
            except DataError as error:
                if not all(line.isprintable() for line in error.problems):
                    return f"not printable: {error.problems}"
                continue
            accepted += 1
            if read is read_mask and path.name in self.pixels and not np.array_equal(values, self.pixels[path.name]):
                return "other values were read without a word"
        self.outcomes["accepted" if accepted > 1 else "refused"] += 1
        return None

    def _place(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


def _values(path: Path) -> Any:
    try:
        return read_mask(path)
    except DataError:  # colours
        return None


def run(trials: Trials, kind: str, numbers: range, report: Callable[[Finding], None]) -> Counter[str]:
    """Try inputs of one kind in a process of their own, a new one after each crash or hang. Returns how they ended."""
    outcomes: Counter[str] = Counter()
    context, first = multiprocessing.get_context("fork"), numbers.start
    while first < numbers.stop:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(trials, kind, range(first, numbers.stop), there))
        process.start()
        there.close()
        current = first
        while True:
            # Twice the limit: what only takes long reports that itself.
            message = None
            if here.poll(2 * SECONDS + 5):
                try:
                    message = here.recv()
                except EOFError:
                    message = "died"
            if message is None or message == "died":
                process.kill() if message is None else None
                process.join()
                died = f"crash (exit status {process.exitcode})"
                report(Finding(kind, current, "hangs" if message is None else died))
                first = current + 1
                break
            if isinstance(message, Counter):
                process.join()
                return outcomes + message
            number, what = message
            if what:
                report(Finding(kind, number, what))
            current = number + 1
    return outcomes


def _work(trials: Trials, kind: str, numbers: range, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in numbers:
        pipe.send((number, trials.trial(kind, number)))
    pipe.send(trials.outcomes)


def main(config: Config) -> int:
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), config.seed)

        def report(finding: Finding) -> None:
            findings.append(finding)
            print(finding, flush=True)
            config.keep.mkdir(parents=True, exist_ok=True)
            path = trials.input(finding.kind, finding.number)
            shutil.copy(path, config.keep / f"{finding.kind}-{finding.number}-{path.name}")

        if config.only:
            kind, _, number = config.only.partition(":")
            print(trials.trial(kind, int(number)) or "nothing is wrong")
            return 0
        for kind, count in trials.kinds(config.json, config.files, config.bits).items():
            start = time.monotonic()
            outcomes = run(trials, kind, range(count), report)
            listed = ", ".join(f"{count:,} {name}" for name, count in outcomes.most_common())
            print(f"{kind}: {count:,} in {time.monotonic() - start:.0f} s: {listed}", flush=True)
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
