"""The card of a model on a hub: what it is, what it was trained on, how it scored, and under which licence it may be used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from maskwright.engine.model import Model

_METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "ap": "mask AP",
    "ap50": "mask AP50",
    "ap75": "mask AP75",
    "box_ap": "box AP",
    "miou": "mIoU",
    "f": "F-measure",
    "e": "E-measure",
    "s": "S-measure",
    "mae": "MAE",
    "ber": "BER",
}
"""Scores that a card tells, by their names in the JSON of ``maskwright evaluate``."""

_PIPELINE = "image-segmentation"


def card_of(model: Model, repo: str, scores: Sequence[Mapping[str, Any]], licence: str | None) -> str:
    """Markdown with the metadata that a hub reads.

    Args:
        model: its folder's own README.md, which the training wrote, is the body: recipe, data, labels, validation.
        repo: ``OWNER/NAME``.
        scores: what ``maskwright evaluate`` gave, for each split.
        licence: its identifier, such as ``apache-2.0``; None: nothing is said.
    """
    name = repo.split("/")[1]
    data = ModelCardData(
        library_name="maskwright",
        pipeline_tag=_PIPELINE,
        license=licence,
        tags=["maskwright", model.recipe, "segmentation", "sam2"],
        model_name=name,
        eval_results=[one for score in scores for one in _results(score)] or None,
    )
    parts = ["---", data.to_yaml().strip(), "---", "", _body(model, repo), *_tables(scores)]
    return "\n".join(parts).rstrip() + "\n"


def told(scores: Mapping[str, Any]) -> dict[str, float]:
    """The scores that a card tells, by their own names."""
    return {name: float(scores[name]) for name in _METRICS if isinstance(scores.get(name), int | float)}


def _results(scores: Mapping[str, Any]) -> list[EvalResult]:
    # A path on the machine of who evaluated is nobody's business; the last name in it says enough.
    dataset = _name_of(str(scores["dataset"]))
    return [
        EvalResult(
            task_type=_PIPELINE,
            dataset_type="custom",
            dataset_name=dataset,
            dataset_split=str(scores["split"]),
            metric_type=name,
            metric_name=_METRICS[name],
            metric_value=round(value, 4),
        )
        for name, value in told(scores).items()
    ]


def _body(model: Model, repo: str) -> str:
    """The card that the training wrote, which loads from the hub instead of a run; one of a line where there is none."""
    path = model.folder / "README.md"
    text = (
        path.read_text("utf-8") if path.is_file() else f"# A model of the recipe {model.recipe}, made with maskwright\n"
    )
    without_metadata = re.sub(r"\A---\n.*?\n---\n+", "", text, flags=re.DOTALL)
    # Of a path between backticks, such as that of a SAM, only the last name is anybody's business.
    without_paths = re.sub(r"`(?:[A-Za-z]:)?[/\\][^`\n]*[/\\]([^`/\\\n]+)`", r"`\1`", without_metadata)
    return without_paths.replace("maskwright.load('RUN')", f"maskwright.load('hf://{repo}')")


def _tables(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    if not scores:
        return ["## Scores", "", "Not evaluated on labels that it was not trained or chosen on."]
    lines = ["## Scores", ""]
    for score in scores:
        names = told(score)
        images = f", {score['images']} images" if "images" in score else ""
        lines += [f"Split `{score['split']}` of `{_name_of(str(score['dataset']))}`{images}:", ""]
        lines += [f"| {' | '.join(_METRICS[name] for name in names)} |", "|" + "---|" * len(names)]
        lines += [f"| {' | '.join(f'{value:.4f}' for value in names.values())} |", ""]
    return lines


def _name_of(dataset: str) -> str:
    path = Path(dataset)
    return path.parent.name or path.name if path.suffix else path.name
