"""What an audit leaves behind: a list, a page with pictures, repaired masks, a text to accept repairs in; and how these are applied."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.files import write_atomic
from maskwright.data.findings import source_of
from maskwright.data.fingerprint import file_digest
from maskwright.data.fix.masks import Change
from maskwright.data.labels import Mask, Sample
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.data.masks import label_values, semantic_of
from maskwright.data.new_folder import new_folder
from maskwright.data.pictures import overlay, palette, side_by_side, thumbnail, thumbnail_mask
from maskwright.engine.report import Picture, Report
from maskwright.errors import DataError
from maskwright.methods.curate.audit import FOLDS, Suspect
from maskwright.methods.curate.lists import AUDIT, AUDIT_FORMAT
from maskwright.methods.curate.planted_errors import ERROR_KINDS
from maskwright.methods.curate.repairs import Repair, repair
from maskwright.sam.sam import Sam

CHOICES, PAGE, REPAIRS, LOG = "repairs.txt", "report.html", "repairs", "repaired.json"

WORDS = {
    "shifted": "the mask lies beside its object",
    "missed": "an object has no mask",
    "extra": "a part of the mask shows no object",
    "swapped": "the object is of another category",
    "coarse": "the outline is rough",
}
"""The kinds of error in words."""

_HEAD = f"""# Masks that look wrong, the most suspicious first. {PAGE} shows each with the mask as it would be repaired.
# Write `yes` in place of `no` where the repair is right, then:
#   maskwright audit DATA --apply THIS-FILE --out NEW-FOLDER
#
# repair  kind     probability  image
"""


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        folder: with ``audit.json``, ``repairs.txt``, ``report.html`` and ``repairs/``.
        judged: how many masks were judged.
        suspects: the entries of ``audit.json``, the most suspicious first: ``id``, ``image``, ``mask``, ``wrong`` (0..1, the
            probability that something is wrong), ``kind``, ``probabilities`` by kind, ``repair`` (a mask in the folder, or None).
        notes: what is to be known about the figures.
    """

    folder: Path
    judged: int
    suspects: list[dict[str, Any]]
    notes: list[str]


@dataclass(frozen=True)
class Applied:
    """A dataset with repaired masks.

    Attributes:
        folder: of the new dataset; ``repaired.json`` in it lists the changes.
        changes: one for each mask.
    """

    folder: Path
    changes: tuple[Change, ...]


def write_audit(
    sam: Sam,
    dataset: Dataset,
    suspects: Sequence[Suspect],
    out: Path,
    *,
    most: int,
    judged: int,
    notes: list[str],
    settings: dict[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> AuditResult:
    """Write the most suspicious masks, their repairs and their pictures.

    Args:
        dataset: the images that were judged.
        suspects: the most suspicious first.
        out: a new folder.
        most: how many are written.

    Raises:
        DataError: the folder is there already or cannot be written, or files cannot be read.
    """
    entries, pictures = [], []
    with new_folder(out, dataset.root) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        for number, suspect in enumerate(suspects[:most]):
            sample = dataset[suspect.place]
            mended = repair(sam, dataset, sample, suspect)
            entries.append(_entry(dataset, sample, suspect, mended))
            if mended is not None:
                write_mask(folder / entries[-1]["repair"], mended.values)
            pictures.append(_picture(dataset, sample, suspect, mended))
            if progress:
                progress(number + 1, min(most, len(suspects)))
        content = {"format": AUDIT_FORMAT, "data": source_of(dataset), **settings, "judged": judged, "notes": notes}
        write_atomic(folder / AUDIT, json.dumps(content | {"suspects": entries}, ensure_ascii=False, indent=1) + "\n")
        write_atomic(folder / CHOICES, _HEAD + "".join(map(_line, entries)))
        _page(dataset, judged, entries, pictures, notes).save(folder / PAGE)
    return AuditResult(out, judged, entries, notes)


def apply_repairs(dataset: Dataset, choices: Path, out: Path) -> Applied:
    """Write a copy of a dataset with the repairs that were accepted.

    Args:
        dataset: the one that was audited; it stays as it is.
        choices: the ``repairs.txt`` of the audit, with ``yes`` where a repair is accepted.
        out: a new folder.

    Raises:
        DataError: lines that cannot be read, images that are not there, masks that have changed since, no ``yes``; all at once.
    """
    accepted = _accepted(dataset, choices)
    by_id = {sample.id: sample for sample in dataset}
    changes = []
    with new_folder(out, dataset.root) as folder:
        copy = manifest.copy_files(dataset, folder)
        samples = list(copy)
        places = {sample.id: place for place, sample in enumerate(samples)}
        for entry in accepted:
            place = places[entry["id"]]
            samples[place] = _replaced(folder, samples[place], choices.parent / entry["repair"], entry)
            what = f"{entry['kind']}: {WORDS[entry['kind']]}; {entry['changed']:,} pixels changed"
            source = str(dataset.mask_path(by_id[entry["id"]]))
            changes.append(Change(entry["kind"], source, f"sample {entry['id']!r}", what, entry["changed"]))
        manifest.write(copy.with_samples(samples))
        log = {"source": source_of(dataset), "audit": str(choices), "changes": [asdict(change) for change in changes]}
        write_atomic(folder / LOG, json.dumps(log, ensure_ascii=False, indent=1) + "\n")
    return Applied(out, tuple(changes))


def _replaced(folder: Path, sample: Sample, repaired: Path, entry: dict[str, Any]) -> Sample:
    """A sample of the copy with its repaired mask, written in place of the link to the old one."""
    path = f"masks/{sample.id}.png"
    (folder / path).unlink(missing_ok=True)
    write_mask(folder / path, read_mask(repaired))
    categories = {int(instance): category for instance, category in entry["categories"].items()}
    mask = Mask(path, entry["mask_kind"], categories)
    # Boxes and points stay: they say where an object is, whatever its outline. What was missed has no box yet.
    return replace(sample, labels=replace(sample.labels, mask=mask))


def _accepted(dataset: Dataset, choices: Path) -> list[dict[str, Any]]:
    """The entries of the audit that were accepted. Raises DataError."""
    try:
        content = json.loads((choices.parent / AUDIT).read_text(encoding="utf-8"))
        lines = choices.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        remedy = f"give the {CHOICES} in the folder that `maskwright audit` wrote"
        raise DataError([f"{error.filename}: is not there; {remedy}"]) from None
    except (OSError, ValueError) as error:
        raise DataError([f"{choices}: cannot be read ({error}); audit again"]) from None
    if not isinstance(content, dict) or content.get("format") != AUDIT_FORMAT:
        raise DataError([f"{choices.parent / AUDIT}: is no audit; give the {CHOICES} that `maskwright audit` wrote"])
    entries = {entry["id"]: entry for entry in content["suspects"]}
    by_id = {sample.id: sample for sample in dataset}
    problems, accepted = [], []
    for number, line in enumerate(lines, 1):
        words = line.split(maxsplit=3)
        if not words or words[0].startswith("#"):
            continue
        place = f"{choices}: line {number}"
        if len(words) != 4 or words[0].lower() not in ("yes", "no"):
            problems.append(f"{place}: {line.strip()!r} is not `yes` or `no`, kind, probability, image")
        elif words[0].lower() == "yes":
            problem = _problem(dataset, by_id.get(words[3]), entries.get(words[3]), words[3])
            problems += [f"{place}: {problem}"] if problem else []
            accepted += [] if problem else [entries[words[3]]]
    if not problems and not accepted:
        problems = [f"{choices}: no repair is accepted; write `yes` in place of `no` where one is right"]
    if problems:
        raise DataError(problems, str(choices))
    return accepted


def _problem(dataset: Dataset, sample: Sample | None, entry: dict[str, Any] | None, id: str) -> str:
    """Why a repair cannot be applied; empty where it can."""
    if entry is None:
        return f"{id!r} is not in {AUDIT}; keep the lines as they were"
    if sample is None or sample.labels.mask is None:
        return f"{id!r} has no mask in {source_of(dataset)}; give the dataset that was audited"
    if not entry["repair"]:
        return f"{id!r} has no repair; mend it by hand, in `maskwright label` for example"
    path = dataset.mask_path(sample)
    assert path is not None
    if file_digest(path).hex() != entry["digest"]:
        return f"{path} is not the mask that was audited any more; audit again"
    return ""


def _entry(dataset: Dataset, sample: Sample, suspect: Suspect, mended: Repair | None) -> dict[str, Any]:
    path, mask = dataset.mask_path(sample), sample.labels.mask if mended is None else mended.mask
    assert path is not None
    assert mask is not None
    return {
        "id": sample.id,
        "image": sample.image,
        "mask": sample.labels.mask.path if sample.labels.mask else None,
        "digest": file_digest(path).hex(),
        "wrong": round(suspect.wrong, 4),
        "kind": suspect.kind,
        "probabilities": {kind: round(p, 4) for kind, p in suspect.probabilities.items()},
        "repair": None if mended is None else f"{REPAIRS}/{sample.id}.png",
        "changed": 0 if mended is None else mended.changed,
        "mask_kind": mask.kind,
        "categories": {str(instance): category for instance, category in mask.categories.items()},
    }


def _line(entry: dict[str, Any]) -> str:
    answer = "no" if entry["repair"] else "# no repair:"
    return f"{answer:8}  {entry['kind']:8} {entry['wrong']:.2f}         {entry['id']}\n"


def _picture(dataset: Dataset, sample: Sample, suspect: Suspect, mended: Repair | None) -> Picture:
    """The image, the mask as it is, and the mask as it would be."""
    pixels = dataset.pixels(sample)
    small = thumbnail(pixels, 256)
    size = small.shape[1], small.shape[0]
    colours = palette(len(dataset.categories))
    maps = [label_values(dataset, sample)[1]]
    if mended is not None:
        maps.append(semantic_of(mended.values, mended.mask))
    drawn = [overlay(small, thumbnail_mask(each.astype(np.uint8), size), colours) for each in maps]
    caption = f"{sample.id}: {suspect.kind}, {suspect.wrong:.0%}" + ("" if mended else "; no repair to propose")
    parts = "the image, its mask" + (", the mask as it would be repaired" if mended else "")
    return Picture(side_by_side([small, *drawn]), caption, f"{caption}. From the left: {parts}")


def _page(
    dataset: Dataset, judged: int, entries: list[dict[str, Any]], pictures: list[Picture], notes: list[str]
) -> Report:
    page = Report("Masks that look wrong", f"{source_of(dataset)}, {judged:,} masks judged")
    page.text(
        f"Each mask was judged by models that did not learn from it ({FOLDS} of them, each trained on the other images), by SAM's answer "
        "to its box, and by the edges of the image. What that means was learnt from errors that were planted in copies of these masks: "
        f"real errors may look otherwise. An error that is made throughout is learnt, not found. {' '.join(notes)}"
    )
    counts = Counter(entry["kind"] for entry in entries)
    page.table(
        "By kind",
        ["kind", "what it means", "masks shown"],
        [[kind, WORDS[kind], counts[kind]] for kind in ERROR_KINDS if counts[kind]],
    )
    note = f"From the left: the image, its mask, the mask as it would be repaired. Accept repairs in {CHOICES}."
    return page.pictures("The most suspicious first", note, pictures, side=800)
