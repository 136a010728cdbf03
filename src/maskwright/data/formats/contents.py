"""What a dataset holds, counted: for the formats to say what they cannot write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from maskwright.data.labels import Samples


def mask_kinds(dataset: Samples) -> Counter[str]:
    """How many masks of each kind there are."""
    return Counter(sample.labels.mask.kind for sample in dataset if sample.labels.mask)


def weak_labels(dataset: Samples, names: Iterable[str]) -> list[str]:
    """A line for each of these fields of ``Labels`` that is in use, with its count."""
    counts = {name: sum(len(getattr(sample.labels, name)) for sample in dataset) for name in names}
    return [f"{count} {name}" for name, count in counts.items() if count]


def cuts(dataset: Samples) -> list[str]:
    """A line on the boxes of objects that a crop cut, where there are any: of all formats the manifest alone says so."""
    count = sum(bool(box.cut) for sample in dataset for box in sample.labels.boxes)
    return [f"where crops cut the objects of {count} boxes (they become boxes of whole objects)"] if count else []
