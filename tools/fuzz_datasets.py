"""A small dataset in every format that is read, for ``fuzz_readers`` to damage."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskwright.data.formats import brush

SIZE = (16, 12)


@dataclass(frozen=True)
class Document:
    """A file to damage.

    Attributes:
        file: below the folder of the dataset.
        content: parsed JSON, a text (XML where the file's name ends so), or bytes.
        load: what is read then, below the same folder; the file itself where it is empty.
    """

    file: str
    content: Any
    load: str = ""


CVAT = """<annotations><version>1.1</version><meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels>
</task></meta>
<image id="0" name="a.png" width="16" height="12"><mask label="cat" rle="3, 5, 12" left="2" top="3" width="5" height="4" z_order="0"/>
<polygon label="dog" points="1,1;8,1.5;8,9" z_order="1" occluded="0"><attribute name="a">b</attribute></polygon></image>
<image id="1" name="b.png" width="16" height="12" subset="val"><box label="cat" xtl="1" ytl="2" xbr="8" ybr="9" rotation="30"/></image>
<image id="2" name="c.png" width="16" height="12"><polyline label="cat" points="1,1;5,5"/><points label="dog" points="3,3;4,4"/></image>
<image id="3" name="d.png" width="16" height="12" labelled="1"><tag label="dog"/><ellipse label="cat" cx="8" cy="6" rx="3" ry="2"/></image>
</annotations>"""

YOLO_ROWS = """1 0.1 0.1 0.6 0.1 0.6 0.7 0.1 0.7
1 0.4 0.4 0.25 0.3
1 0.2 0.3 0.7 0.3 0.7 0.8
"""
YOLO_SETTINGS = """path: . # dataset root dir
train: images/train
val: [images/val]
nc: 2
kpt_shape: [2, 3]
names:
  0: cat
  1: dog
"""
VOC_XML = """<annotation><folder>JPEGImages</folder><filename>a.png</filename>
<size><width>16</width><height>12</height><depth>3</depth></size>
<segmented>1</segmented><object><name>cat</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>
<object><name>cat</name><bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>14</xmax><ymax>11</ymax></bndbox></object></annotation>"""
VOC_COLOURS = """# label:color_rgb:parts:actions
background:0,0,0::
cat:128,0,0::
dog:0,128,0::
"""
VOC_LIST = "a\nb\n"


def write_base(root: Path) -> dict[str, Document]:
    """Files of a small dataset in all formats. Returns what is to be damaged, by a name of its own."""
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
    folders = write_folders(root)
    return folders | {
        "cvat": Document("annotations.xml", CVAT),
        "label-studio": Document("tasks.json", tasks),
        "labelme": Document("labelme.json", labelme),
        "nnunet": Document("nnunet/dataset.json", nnunet),
        "predictions": Document("predictions.json", found),
        "manifest": Document("manifest.json", manifest),
        "coco": Document("coco.json", coco),
        "samix": Document("splits_samix.json", samix),
        "folders": Document("splits_folders.json", lists),
    }


def write_folders(root: Path) -> dict[str, Document]:
    """YOLO and Pascal VOC, once for each of the files that are damaged there: the others stay whole."""
    documents = {}
    for part, file, content in (
        ("rows", "labels/train/a.txt", YOLO_ROWS),
        ("settings", "data.yaml", YOLO_SETTINGS),
    ):
        folder = root / f"yolo-{part}"
        for name in ("train/a", "train/b", "val/c"):
            _place(root / "images" / f"{name[-1]}.png", folder / "images" / f"{name}.png")
            _write(folder / "labels" / f"{name}.txt", YOLO_ROWS)
        _write(folder / "data.yaml", YOLO_SETTINGS.replace("kpt_shape: [2, 3]\n", ""))
        documents[folder.name] = Document(f"{folder.name}/{file}", content, folder.name)
    for part, file, content in (
        ("boxes", "Annotations/a.xml", VOC_XML),
        ("colours", "labelmap.txt", VOC_COLOURS),
        ("list", "ImageSets/Segmentation/train.txt", VOC_LIST),
        ("mask", "SegmentationClass/a.png", b""),
    ):
        folder = root / f"voc-{part}"
        for name in "abc":
            _place(root / "images" / f"{name}.png", folder / "JPEGImages" / f"{name}.png")
            _write(folder / "Annotations" / f"{name}.xml", VOC_XML)
            for masks in ("SegmentationClass", "SegmentationObject"):
                picture = Image.open(root / "masks" / "a.png").convert("P")
                picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
                (folder / masks).mkdir(exist_ok=True)
                picture.save(folder / masks / f"{name}.png")
        _write(folder / "labelmap.txt", VOC_COLOURS)
        _write(folder / "ImageSets" / "Segmentation" / "train.txt", VOC_LIST)
        _write(folder / "ImageSets" / "Segmentation" / "val.txt", "c\n")
        content = content or (folder / file).read_bytes()
        documents[folder.name] = Document(f"{folder.name}/{file}", content, folder.name)
    return documents


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
