"""Pascal VOC: ``JPEGImages/``, masks of categories and objects as PNG, boxes as XML, lists of splits.

- ``SegmentationClass/a.png`` is the semantic mask of ``JPEGImages/a.*``, 255 is ignore. Its pixels are ids with a palette; or
  colours, those of ``labelmap.txt`` where CVAT wrote it, else VOC's own.
- ``SegmentationObject/a.png`` is its instance mask. It is read instead where, in all images, objects fill just what
  categories fill; else, as in VOC 2012 with undecided borders, categories are read, and a warning says so. Without
  ``SegmentationClass/`` the category of object 1, 2, ... is that of the first, second, ... object in the XML file.
- ``Annotations/a.xml`` holds boxes. Corners count pixels from 1, the last included, where all are whole and none is 0, as in
  VOC; else they are coordinates, as most tools write them. ``Samples.format`` says which. XML files beside their images are
  read too, as Roboflow and LabelImg leave them. One without an object says that there is none.
- ``ImageSets/Segmentation/*.txt`` and ``ImageSets/Main/*.txt`` are the splits (``trainval`` only for what is in no other);
  images in no list are left out. Without lists a folder ``train``, ``valid`` or ``test`` is the split, else all is ``train``.

Names of categories: ``labelmap.txt`` (CVAT), ``class_names.txt`` (LabelMe), the files ``ImageSets/Main/<name>_<split>.txt`` in
alphabetical order, VOC's 20 where the XML files name no other, else the names in the XML files as they come.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from maskwright.data.formats.objects import Entry, samples_of
from maskwright.data.formats.safe_xml import root_tag
from maskwright.data.formats.voc_boxes import Described, boxes, counted_from_one, described
from maskwright.data.formats.voc_masks import Look, copy_of_ids, default_colours, look
from maskwright.data.formats.voc_names import MASKS, OBJECTS, XML, Names
from maskwright.data.formats.voc_writer import loss, write
from maskwright.data.images import image_size
from maskwright.data.labels import IGNORE, Labels, Mask, Sample, Samples
from maskwright.data.lookahead import ahead
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError

__all__ = ["LAYOUT", "detect", "loss", "read", "write"]

LAYOUT = (
    "Pascal VOC: a folder with JPEGImages/ and SegmentationClass/ or Annotations/, or XML files of boxes beside images"
)
_LOOKED_AT = 3


def detect(path: Path, document: Any) -> bool:
    """Whether a folder has VOC's folders, or XML files of it."""
    if not path.is_dir():
        return False
    if (path / "JPEGImages").is_dir() and any((path / name).is_dir() for name in (*MASKS, OBJECTS, XML)):
        return True
    files = [
        file for pattern in (f"{XML}/*.xml", "*.xml", "*/*.xml") for file in islice(path.glob(pattern), _LOOKED_AT)
    ]
    return any(root_tag(file) == "annotation" for file in files)


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read Pascal VOC (see the module's docstring).

    Args:
        path: the folder that holds ``JPEGImages/``; of several years, that of one.

    Raises:
        DataError: every structural problem at once, with file and place; XML that is not safe.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError([f"{path}: Pascal VOC is a folder; name that with JPEGImages/"])
    parse = _Parse(path, reading, path)
    samples = parse.samples()
    if parse.problems:
        raise DataError(parse.problems, str(path))
    parse.tell()
    return Samples(path, parse.categories, samples, str(path), f"Pascal VOC{parse.said}", tuple(parse.warnings))


class _Parse(Names):
    """Puts together what lists, masks and XML files say of each image."""

    categories: tuple[str, ...] = ("background",)
    said = ""

    def samples(self) -> tuple[Sample, ...]:
        images = self.images()
        files = {image: found for image in images if (found := self._described(image)) is not None}
        self.tell_unpaired(images)
        masks = {image: (self.mask_of(image, *MASKS), self.mask_of(image, OBJECTS)) for image in images}
        listed = self.named_colours()
        colours = default_colours() if listed is None else listed
        looks = dict(zip(images, ahead(lambda i: look(self.root, *masks[i], colours), images), strict=True))
        self.problems += [problem for one in looks.values() for problem in one.problems if problem.fix is None]
        self.categories = self.names_of(list(files.values()), list(looks.values()))
        if self.problems:
            return ()
        entries = self._entries(images, files)
        plain = samples_of(self, self.root, entries)
        if self.problems:
            return ()
        instance = self._are_instances(looks, {image for image, (semantic, _) in masks.items() if semantic})

        def with_mask(pair: tuple[str, Sample]) -> Sample:
            image, sample = pair
            mask = self._mask(sample.id, masks[image], looks[image], files.get(image), colours, instance=instance)
            if mask is None:
                return sample
            labels = sample.labels
            return Sample(sample.id, sample.image, sample.split, Labels(mask, boxes=labels.boxes), sample.size)

        return tuple(ahead(with_mask, list(zip(images, plain, strict=True))))

    def _described(self, image: str) -> Described | None:
        file = self.xml_of(image)
        return None if file is None else described(self, self.root, file)

    def _entries(self, images: dict[str, str], files: dict[str, Described]) -> list[Entry]:
        """Images with their boxes; sizes are those of the files."""
        from_one = counted_from_one(list(files.values()))
        if any(file.objects for file in files.values()):
            self.said = ", boxes counted from 1" if from_one else ", boxes in coordinates from 0"
        ids = {name: id for id, name in enumerate(self.categories)}
        entries = []
        for (image, split), found in zip(images.items(), ahead(self._size, list(images)), strict=True):
            file = files.get(image)
            size = found or (file.size if file else None)
            if size is None:
                self.note(image, "its size is not known, as it cannot be read; correct the image", "size")
                continue
            entry = Entry(file.file if file else image, image, image, split, size)
            if file is not None:
                if found and file.size and found != file.size:
                    sides = f"{file.size[0]} x {file.size[1]} pixels, but {image} has {found[0]} x {found[1]}"
                    self.note(file.file, f"says {sides}; correct the size or the image", "size")
                entry.boxes += boxes(self, file, ids, size, from_one=from_one)
                entry.labelled = not file.objects and not self.has_masks
                if file.outlines:
                    self.leave_out("XML files with polygons: their boxes are read, and polygons", file.file)
            entries.append(entry)
        return entries

    def _size(self, image: str) -> tuple[int, int] | None:
        try:
            return image_size(self.root / image, self.reading.image.page)
        except DataError:
            return None  # The check reports the file, where an XML file says its size.

    # -------------------------------------------------------------------------------------------------------- masks

    def _are_instances(self, looks: dict[str, Look], semantic: set[str]) -> bool:
        """Whether masks of objects are read, and not those of categories; what is left out is said."""
        with_objects = [image for image, one in looks.items() if one.objects is not None]
        if not with_objects or not semantic:
            return bool(with_objects)
        odd = [i for i in semantic if not looks[i].agree]
        if not odd:
            return True
        what = f"categories are read and objects are not, as {len(odd)} masks have undecided pixels or no objects"
        remedy = f"for objects, move {MASKS[0]}/ away" if self.root.joinpath(XML).is_dir() else ""
        self.warn(
            OBJECTS,
            f"{what}, such as {PurePosixPath(odd[0]).name}" + (f"; {remedy}" if remedy else ""),
            "objects-left-out",
        )
        return False

    def _mask(
        self,
        id: str,
        masks: tuple[str | None, str | None],
        found: Look,
        file: Described | None,
        colours: dict[int, int],
        *,
        instance: bool,
    ) -> Mask | None:
        semantic, objects = masks
        try:
            if not instance:
                if semantic is None or found.plain[0]:
                    return None if semantic is None else Mask(semantic)
                return Mask(copy_of_ids(self.root, id, semantic, colours))
            if objects is None or found.objects is None:
                return None if objects is None else Mask(objects)  # The check reports what cannot be read.
            undecided = IGNORE in found.objects
            path = objects
            if undecided or not found.plain[1]:
                path = copy_of_ids(self.root, id, objects, default_colours(), without_ignore=True)
        except DataError as error:
            self.problems += error.problems
            return None
        categories = {one: category for one, category in found.objects.items() if one != IGNORE}
        if semantic is None:
            categories = self._by_order(categories, objects, file)
            if undecided:
                self.leave_out(
                    "masks of objects with undecided pixels (255), which become background: as such they", objects
                )
        return Mask(path, "instance", categories)

    def _by_order(self, objects: dict[int, int], mask: str, file: Described | None) -> dict[int, int]:
        """The categories of objects, where the XML file lists as many in the order of their ids; else the only one."""
        ids = {name: id for id, name in enumerate(self.categories)}
        if file is not None and file.objects and max(objects, default=0) <= len(file.objects):
            return {id: ids[file.objects[id - 1].name] or 1 for id in objects}
        if len(self.categories) > 2:
            what = f"nothing says of which category its {len(objects)} objects are"
            self.note(mask, f"{what}; add its mask to {MASKS[0]}/", "no-category")
        return dict.fromkeys(objects, 1)
