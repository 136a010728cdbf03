"""What a dataset holds, as hashes: a run keeps them, so that it never goes on with other data without a word.

A fingerprint covers the categories, and of each sample, in order: its id, its split, its labels with the bytes of its mask, and
the bytes of its image. The names of the files and their folder do not count: a dataset that was moved is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.labels import Sample, Samples
from maskwright.data.lookahead import ahead
from maskwright.errors import DataError, MaskwrightError

FORMAT = "maskwright data 1"
SHOWN = 3
"""Names of samples that a line about a change gives; the rest are counted."""

_DIGITS = 32
_known: dict[str, tuple[int, int, bytes]] = {}
_lock = threading.Lock()


def file_digest(path: str | Path) -> bytes:
    """SHA-256 of a file's bytes. Within this program a file is read again only where its length or time of modification changed.

    Raises:
        DataError: it cannot be read.
    """
    key = os.path.abspath(path)
    try:
        status = os.stat(key)
        with _lock:
            known = _known.get(key)
        if known is not None and known[:2] == (status.st_size, status.st_mtime_ns):
            return known[2]
        with open(key, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError([f"{path}: cannot be read ({error.strerror}); restore the file"]) from None
    with _lock:
        _known[key] = status.st_size, status.st_mtime_ns, digest
    return digest


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample: ``labels`` and ``image`` are hashes of 32 hexadecimal digits."""

    id: str
    split: str
    labels: str
    image: str


@dataclass(frozen=True)
class Fingerprint:
    """Made by :meth:`of`, or read back by :meth:`from_json`.

    Attributes:
        categories: names by id.
        entries: one for each sample, in the dataset's order.
        reading: how its image files are read, where they leave a choice.
    """

    categories: tuple[str, ...]
    entries: tuple[Entry, ...]
    reading: ImageReading = PLAIN

    @classmethod
    def of(cls, dataset: Samples) -> Self:
        """The fingerprint of a dataset. Files that its check has just read are not read again.

        Raises:
            DataError: files that cannot be read, all at once.
        """
        problems: list[str] = []

        def entry(sample: Sample) -> Entry | DataError:
            try:
                return _entry(dataset, sample)
            except DataError as error:
                return error

        entries: list[Entry] = []
        for result in ahead(entry, dataset.samples):
            if isinstance(result, DataError):
                problems += result.problems
            else:
                entries.append(result)
        if problems:
            raise DataError(problems, dataset.source or str(dataset.root))
        return cls(dataset.categories, tuple(entries), dataset.image_reading)

    @cached_property
    def digest(self) -> str:
        """All of it in 64 hexadecimal digits."""
        told: list[Any] = [self.categories, [_row(entry) for entry in self.entries]]
        # Nothing where nothing is said, so that the fingerprints of before stay what they were.
        told += [self.reading.as_dict()] if self.reading != PLAIN else []
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def to_json(self) -> str:
        """The text that :meth:`from_json` reads, one sample a line."""
        head: dict[str, Any] = {"format": FORMAT, "digest": self.digest, "categories": self.categories}
        head |= {"image_reading": self.reading.as_dict()} if self.reading != PLAIN else {}
        rows = ",\n  ".join(json.dumps(_row(entry)) for entry in self.entries)
        return f'{json.dumps(head)[:-1]},\n "samples": [\n  {rows}\n ]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError where the text is damaged, or not what :meth:`to_json` writes."""
        try:
            value = json.loads(text)
            known = value["format"] == FORMAT
            entries = tuple(Entry(*(str(part) for part in row)) for row in value["samples"])
            reading = ImageReading.of(value.get("image_reading", {}))
            fingerprint = cls(tuple(str(name) for name in value["categories"]), entries, reading)
            damaged = value["digest"] != fingerprint.digest
        except (KeyError, TypeError, AttributeError, MaskwrightError) as error:
            raise ValueError(f"not a fingerprint of this version ({error!r})") from error
        if not known or damaged:
            raise ValueError(
                "not a fingerprint of this version" if not known else "its digest is not that of its samples"
            )
        return fingerprint

    def changes_to(self, now: Fingerprint) -> list[str]:
        """What differs in ``now``, one line for each kind of change; empty where nothing does."""
        then_by_id, now_by_id = ({entry.id: entry for entry in each.entries} for each in (self, now))
        added = [id for id in now_by_id if id not in then_by_id]
        removed = [id for id in then_by_id if id not in now_by_id]
        images = {then_by_id[id].image: id for id in removed}
        renamed = {images.pop(image): id for id in added if (image := now_by_id[id].image) in images}
        both = [(then_by_id[id], now_by_id[id]) for id in then_by_id if id in now_by_id]
        lines = [
            *_category_changes(self.categories, now.categories),
            *_reading_changes(self.reading, now.reading),
            *_line("added", [id for id in added if id not in renamed.values()]),
            *_line("removed", [id for id in removed if id not in renamed]),
            *_line("renamed", [f"{old} → {new}" for old, new in renamed.items()]),
            *_line("moved", [f"{a.id} ({a.split} → {b.split})" for a, b in both if a.split != b.split]),
            *_line("relabelled", [a.id for a, b in both if a.labels != b.labels]),
            *_line("with another picture", [a.id for a, b in both if a.image != b.image]),
        ]
        order = [entry.id for entry in now.entries if entry.id in then_by_id]
        if (before := [a.id for a, _ in both]) != order:
            lines.append(f"another order of the images, from {next(a for a, b in zip(before, order) if a != b)} on")
        return lines


def _entry(dataset: Samples, sample: Sample) -> Entry:
    labels = asdict(sample.labels)
    path = dataset.mask_path(sample)
    if path is not None:
        labels["mask"]["path"] = file_digest(path).hex()
        labels["mask"]["categories"] = sorted(labels["mask"]["categories"].items())
    told = hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()
    return Entry(sample.id, sample.split, told[:_DIGITS], file_digest(dataset.image_path(sample)).hex()[:_DIGITS])


def _row(entry: Entry) -> list[str]:
    return [entry.id, entry.split, entry.labels, entry.image]


def _line(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{len(names)} {'image' if len(names) == 1 else 'images'} {what}: {', '.join(names[:SHOWN])}{more}"]


def _reading_changes(then: ImageReading, now: ImageReading) -> Iterable[str]:
    if then != now:
        yield f"images read in another way: {then.options or 'as they are'} → {now.options or 'as they are'}"


def _category_changes(then: Sequence[str], now: Sequence[str]) -> Iterable[str]:
    if then == now:
        return
    added, removed = [name for name in now if name not in then], [name for name in then if name not in now]
    places: Mapping[str, int] = {name: place for place, name in enumerate(now)}
    renamed = {a: b for a, b in zip(then, now) if a in removed and b in added}
    moved = [name for place, name in enumerate(then) if places.get(name, place) != place]
    parts: dict[str, list[Any]] = {
        "renamed": [f"{a} → {b}" for a, b in renamed.items()],
        "added": [name for name in added if name not in renamed.values()],
        "removed": [name for name in removed if name not in renamed],
        "with another number": moved,
    }
    told = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
    yield f"categories {told}"
