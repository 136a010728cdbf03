"""How a dataset was understood, in words: what `maskwright data check` prints, and every training when it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from maskwright.data.check import Report
from maskwright.data.findings import name_of
from maskwright.data.stats import COUNTED, TINY, Stats
from maskwright.data.suspicions import left_out
from maskwright.problems import Group, Problem, fix_command, grouped, lines, printable

_KINDS = {"semantic": "pixels are category ids", "instance": "pixels are object ids"}
_ONE = {"instances": "object in masks", "boxes": "box", "scribbles": "scribble", "points": "point", "tags": "tag"}
_MANY = {"instances": "objects in masks"}
_MOST_NAMES = 12


def understood(report: Report) -> list[str]:
    """A dataset in a few lines: format, kind of the masks, images and objects by split, categories, what is missing."""
    dataset, stats = report.dataset, report.stats
    counted = [(kind, text) for kind, text in _KINDS.items() if stats.masks.get(kind)]
    masks = " and ".join(f"{_number(stats.masks[kind], f'{kind} mask')} ({text})" for kind, text in counted)
    unread = sum(sample.labels.mask is not None for sample in dataset) - sum(stats.masks.values())
    masks = " and ".join(filter(None, (masks, f"{_number(unread, 'mask')} that cannot be read" if unread else "")))
    names = [printable(name) for name in dataset.categories[1:]]
    listed = ", ".join(names[:_MOST_NAMES]) + (
        f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    )
    said = [
        f"{printable(name_of(dataset))}: {dataset.format or 'dataset'}, {_number(stats.images, 'image')}, {masks or 'no masks'}",
        f"categories: {listed or 'none but background'}",
    ]
    said += [f"{printable(split)}: {_split(stats, split)}" for split in stats.splits]
    return said + _remarks(report)


def start_of_training(report: Report) -> str:
    """The same with its warnings, for a training to say when it starts."""
    return "\n".join([*understood(report), *(f"warning: {line}" for line in lines(report.warnings))])


def findings_text(problems: Sequence[Problem], data: str | Path, most: int | None = 3) -> list[str]:
    """Problems or warnings in groups: what they have in common once, and at the end the one command that mends what can be.

    Args:
        problems: of one severity.
        data: the dataset as the user named it, for the command.
        most: of each kind so many are shown, and the others counted; None: all.
    """
    refused = [problem for problem in problems if problem.severity == "problem"]
    mendable = [problem for problem in refused if problem.fix is not None]
    said = [line for group in grouped(problems) for line in _group(group, most)]
    if mendable:
        options = " ".join(dict.fromkeys(problem.fix for problem in mendable if problem.fix))
        command = fix_command(data, options)
        others = len(refused) - len(mendable)
        first = f"correct the {_number(others, 'problem')} that it cannot mend, then write" if others else "write"
        said.append(f"{first} a mended copy with:\n    {command}")
    return said


def _group(group: Group, most: int | None) -> list[str]:
    """The faults of one kind; a remedy that is the same for all of them comes once, after the last."""
    shown = [(problem.removesuffix(f"; {problem.remedy}"), _by_hand(problem)) for problem in group.problems[:most]]
    remedies = {_by_hand(problem) for problem in group.problems}
    common = remedies.pop() if len(shown) > 1 and len(remedies) == 1 else ""
    said = [f"  - {what}" + (f"; {remedy}" if remedy and not common else "") for what, remedy in shown]
    if left := len(group.problems) - len(shown):
        said.append(f"    ... and {left:,} more of this kind (--all lists them)")
    return [*said, *([f"    {common}"] if common else [])]


def _by_hand(problem: Problem) -> str:
    """A problem's remedy without the command that mends it, which comes once, at the end; that of a warning stays."""
    if problem.fix is None or problem.severity == "warning":
        return problem.remedy
    return problem.remedy.partition("mend it with: ")[0].removesuffix(", or ")


def _split(stats: Stats, name: str) -> str:
    split = stats.splits[name]
    kinds = ", ".join(f"{count:,} {'without label' if kind == 'none' else kind}" for kind, count in split.kinds.items())
    objects = ", ".join(
        _number(getattr(split, key), _ONE[key], _MANY.get(key, key)) for key in COUNTED if getattr(split, key)
    )
    return f"{_number(split.images, 'image')} ({kinds})" + (f"; {objects}" if objects else "")


def _remarks(report: Report) -> list[str]:
    """What is not there, or says nothing."""
    dataset, stats = report.dataset, report.stats
    said = []
    unlabelled = [sample for sample in dataset if not sample.labels.mask]
    if stats.masks and unlabelled and all(str(sample.labels.kind) == "none" for sample in unlabelled):
        said.append(f"without a mask: {_number(len(unlabelled), 'image')}, such as {printable(unlabelled[0].image)}")
    said += _reading(report)
    if others := left_out(dataset):
        said.append(
            f"left out: {_number(len(others), 'image file')} that no list names, such as {printable(others[0])}"
        )
    if stats.empty_masks:
        said.append(f"empty masks (nothing but background): {stats.empty_masks:,}")
    if stats.tiny_masks:
        said.append(f"nearly empty masks (fewer than {TINY} pixels): {stats.tiny_masks:,}")
    if stats.ignored_share:
        said.append(f"ignored pixels (255): {_percent(stats.ignored_share)} of all mask pixels")
    return said


def _reading(report: Report) -> list[str]:
    """How image files are read where they leave a choice."""
    said, intensity, reading = [], report.intensity, report.dataset.image_reading
    if chosen := replace(reading, intensity=None).options:
        said.append(f"images are read with {chosen} (counted from 0)")
    if intensity.deep and intensity.range is not None:
        low, high = intensity.range
        rule = "as given" if intensity.given else "measured over the training split; --intensity LOW,HIGH sets others"
        said.append(
            f"images of more than 8 bits: {intensity.deep:,}; in all of them {low:.10g} becomes black and {high:.10g} white ({rule})"
        )
    return said


def _number(count: int, what: str, many: str = "") -> str:
    return f"{count:,} {what if count == 1 else many or f'{what}s'}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
