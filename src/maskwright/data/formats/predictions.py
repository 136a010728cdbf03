"""A folder that ``maskwright predict`` wrote: ``predictions.json`` beside ``images/`` and ``masks/``.

Its masks are labels like any others: they can be corrected in place, checked, and learnt from. All images are of the
split ``train``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskwright.data.fields import MISSING, Fields, category_problems, names_a_file, read_json, shown
from maskwright.data.formats.objects import Scores, checked_size
from maskwright.data.labels import Labels, Mask, Sample, Samples
from maskwright.data.paths import Files, resolve
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError
from maskwright.problems import as_problem

__all__ = ["FORMAT", "INDEX", "LAYOUT", "VERSION", "detect", "read", "scores_of"]

LAYOUT = "a folder that `maskwright predict` wrote, with predictions.json"
FORMAT, VERSION = "maskwright-predictions", 2
INDEX = "predictions.json"
_MOST_IDS = 65535


def detect(path: Path, document: Any) -> bool:
    """Whether a folder holds predictions, or the parsed JSON of a file is their index."""
    if path.is_dir():
        return (path / INDEX).is_file()
    return isinstance(document, dict) and document.get("format") == FORMAT


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read predictions as a dataset (the folder, or its ``predictions.json``).

    Raises:
        DataError: every structural problem at once; predictions that were written without their images.
    """
    path = Path(path)
    file = path / INDEX if path.is_dir() else path
    parse = _Parse(file.parent, reading, path)
    categories, samples = parse.document(read_json(file))
    if parse.problems:
        raise DataError(parse.problems, str(path))
    return Samples(file.parent, categories, samples, str(path), "predictions", tuple(parse.warnings))


def scores_of(path: str | Path) -> Scores:
    """The scores in a folder of predictions that :func:`read` reads: of objects by their id, or of categories."""
    document = read_json(Path(path) / INDEX)
    ids = {name: id for id, name in enumerate(document["categories"])}
    scores: dict[str, dict[int, float]] = {}
    for row in document["images"]:
        if "ids" in row:
            found = {id: one["score"] for id, one in enumerate(row["objects"][: row["ids"]], start=1)}
        else:
            found = {ids[name]: score for name, score in (row.get("score") or {}).items() if name in ids}
        scores[_id_of(row["name"])] = found
    return scores


def _id_of(name: str) -> str:
    """The id of an image: its name, which may have sub-folders."""
    return name.replace("/", "_")


class _Parse(Fields):
    def __init__(self, root: Path, reading: Reading, data: Path) -> None:
        super().__init__(reading, data)
        self.files, self.count = Files(root), 0

    def document(self, document: Any) -> tuple[tuple[str, ...], tuple[Sample, ...]]:
        types = {"format": str, "version": int, "categories": list, "images": list}
        top = self.fields(document, INDEX, types, required=tuple(types), extra=True)
        if top.get("format", FORMAT) != FORMAT or top.get("version", VERSION) != VERSION:
            what = f"is of {shown(top.get('format'))} {shown(top.get('version'))}, read is {FORMAT} {VERSION}"
            self.note(INDEX, f"{what}; predict again")
        if len(top) < len(types) or self.problems:
            return (), ()
        self.problems += map(as_problem, category_problems(top["categories"]))
        self.count = len(top["categories"])
        samples: dict[str, Sample] = {}
        without = 0
        for i, row in enumerate(top["images"]):
            if isinstance(row, dict) and row.get("image") is None:
                without += 1
                continue
            sample = self.sample(row, f"images[{i}]")
            if sample is not None and sample.id in samples:
                self.note(f"images[{i}].name", f"{shown(sample.id)} is there twice; remove one")
            elif sample is not None:
                samples[sample.id] = sample
        if without:
            what = f"{without} images are not in the folder, as predict was told --no-dataset"
            self.note(INDEX, f"{what}; predict again with --overwrite and without it")
        return tuple(top["categories"]), tuple(samples.values())

    def sample(self, row: Any, place: str) -> Sample | None:
        types = {"name": str, "image": str, "mask": str, "size": list, "ids": int, "objects": list}
        fields = self.fields(row, place, types, required=("name", "image", "mask", "size"), extra=True)
        numbers = self.numbers(fields.get("size", MISSING), f"{place}.size", 2)
        image, mask = (
            resolve(self, self.files, fields[key], f"{place}.{key}") if key in fields else None
            for key in ("image", "mask")
        )
        if "name" not in fields or image is None or mask is None or numbers is None:
            return None
        id = _id_of(fields["name"])
        if not names_a_file(id):
            self.note(f"{place}.name", f"{shown(id)} cannot be an id; use printable text of at most 200 bytes")
        size = checked_size(self, int(numbers[0]), int(numbers[1]), f"{place}.size")
        if "ids" not in fields:
            return Sample(id, image, labels=Labels(Mask(mask)), size=size)
        categories = self.objects(fields, place)
        return Sample(id, image, labels=Labels(Mask(mask, "instance", categories)), size=size)

    def objects(self, fields: dict[str, Any], place: str) -> dict[int, int]:
        """The category of each id of the mask: those of the first objects."""
        count, rows = fields["ids"], fields.get("objects", [])
        if not 0 <= count <= min(len(rows), _MOST_IDS):
            self.note(f"{place}.ids", f"must be a count of at most its {len(rows)} objects, found {shown(count)}")
            return {}
        categories: dict[int, int] = {}
        for id, row in enumerate(rows[:count], start=1):
            at = f"{place}.objects[{id - 1}]"
            one = self.fields(row, at, {"category_id": int}, required=("category_id",), extra=True)
            category = one.get("category_id", 1)
            if not 1 <= category < max(self.count, 2):
                self.note(f"{at}.category_id", f"must be 1 to {self.count - 1}, found {shown(category)}; correct it")
            categories[id] = category
        return categories
