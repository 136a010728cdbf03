"""The recipes: one module for each, with ``Config`` (its settings) and ``main`` (the training).

This table is the only place that lists them; the command line, the API and the help read it. Nothing heavy is imported
before a recipe is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskwright.engine.model import Model
    from maskwright.engine.predictor import Predictor


@dataclass(frozen=True)
class Recipe:
    """A way to train a model.

    Attributes:
        name: as in ``maskwright train NAME``; also the module's name.
        text: what a user gets from it, for the help.
        predictor: ``module:function`` that makes a predictor of a model folder.
        uses: what to give a trained model's ``maskwright predict RUN``, and what comes of it, one line each.
    """

    name: str
    text: str
    predictor: str
    uses: tuple[tuple[str, str], ...] = (("IMAGES --out DIR", "masks of new images"),)

    def module(self) -> ModuleType:
        """The module with ``Config`` and ``main``."""
        return importlib.import_module(f"maskwright.recipes.{self.name}")

    def load(self, model: Model) -> Predictor:
        """The trained model, ready for images, on the CPU. Raises WeightsError where the folder does not fit."""
        module, function = self.predictor.split(":")
        make: Callable[[Model], Predictor] = getattr(importlib.import_module(module), function)
        return make(model)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "samix",
            "A semantic segmenter from any mix of masks, boxes, scribbles, points, tags and no labels at all (SAMIX).",
            "maskwright.methods.semantic.predictor:load_segmenter",
            (
                ("IMAGES --out DIR", "masks of new images"),
                ("IMAGES --out DIR --in-context", "the same by SAM, which is shown references"),
            ),
        ),
        Recipe(
            "alignsam",
            "A frozen SAM that prompts itself: finds one kind of thing, learnt from about 50 masks (AlignSAM).",
            "maskwright.methods.autoprompt.predictor:load_self_prompter",
        ),
        Recipe(
            "clicks",
            "An agent that answers your click or box, and corrects masks, by what it has learnt and by clicks of its own.",
            "maskwright.methods.clicks.predictor:load_agent",
            (
                ("IMAGE --click X,Y --out DIR", "your click, corrected"),
                ("IMAGES --masks DIR --out DIR2", "masks of another model, corrected"),
            ),
        ),
        Recipe(
            "s4m",
            "An instance segmenter from a small labelled share and many images without labels (S⁴M).",
            "maskwright.methods.instances.predictor:load_instances",
        ),
    )
}
