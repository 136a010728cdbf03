"""Opening what is to be labelled: a folder of images gets a manifest, and so does a dataset of another layout that labels can be
written beside.
"""

from __future__ import annotations

from pathlib import Path

from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.image_files import IMAGE_SUFFIXES
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.labels import Sample
from maskwright.errors import DataError


def open_dataset(data: Path, reading: ImageReading = PLAIN) -> tuple[Dataset, list[str]]:
    """The dataset, with a manifest in its folder, and what there is to say about how it was made."""
    if data.is_dir() and not (data / manifest.NAME).is_file() and (images := _plain_images(data)):
        samples = tuple(Sample(name, path) for name, path in images.items())
        dataset = Dataset(data, ("background", "object"), samples, str(data), "a folder of images")
        dataset.save()
        said = f"{len(samples)} images, no labels yet: wrote {data / manifest.NAME} with one category, object"
        return Dataset.load(data, image_reading=reading), [said]
    dataset = Dataset.load(data, image_reading=reading)
    if not len(dataset):
        raise DataError([f"{data}: holds no images; put some there"])
    if dataset.format == manifest.NAME:
        return dataset, []
    target = dataset.root / manifest.NAME
    convert = f"maskwright data convert {data} --to manifest --out {dataset.root.name}-labels"
    if target.exists():
        raise DataError([f"{data}: labels are written into {target}, which is another dataset; write `{convert}`"])
    try:
        dataset.save()
    except DataError as error:
        raise DataError([f"{data}: {dataset.format} cannot be written in place; first write `{convert}`"]) from error
    return Dataset.load(dataset.root, image_reading=reading), [
        f"{dataset.format}: labels are kept in {target} from now on"
    ]


def _plain_images(folder: Path) -> dict[str, str]:
    """Images of a folder that is no dataset, by the ids they get: {} where there are ``images/`` or other files with labels."""
    if (folder / "images").is_dir() or any(folder.glob("*.json")) or any(folder.glob("*/images")):
        return {}
    names: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in relative.parts):
            stem = "-".join(relative.with_suffix("").parts)
            name = stem if stem not in names else f"{stem}-{path.suffix[1:]}"
            names[name] = relative.as_posix()
    return names
