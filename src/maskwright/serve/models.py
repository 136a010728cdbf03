"""The models that a server was started with: SAM, a trained run that proposes, a click agent."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskwright.data.fields import read_json
from maskwright.errors import MaskwrightError
from maskwright.serve.tiles import Pictures
from maskwright.serve.wire import WireError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from maskwright.serve.assistant import Answer, Assistant

PATIENCE = 120.0
"""Seconds that an answer of the networks may take, loading and encoding included."""

AGENT = "clicks"
"""The recipe whose models correct masks; those of all others propose them."""


class Models:
    """Names of the models, and the :class:`Assistant` that has them, once it is there.

    Args:
        sam: what :meth:`maskwright.Sam.load` takes.
        pictures: gives the images' pixels.
        run: a trained run that proposes masks of whole images.
        agent: a run of ``clicks``, which answers clicks and boxes, and corrects masks.

    Attributes:
        recipe: that made the run; empty without one.

    Raises:
        MaskwrightError: a folder without a model, or with one of the other kind.
    """

    def __init__(self, sam: str, pictures: Pictures, run: Path | None = None, agent: Path | None = None) -> None:
        self.recipe = "" if run is None else recipe_of(run)
        if self.recipe == AGENT:
            raise MaskwrightError(f"{run}: is a click agent; give it with --agent")
        if agent is not None and recipe_of(agent) != AGENT:
            raise MaskwrightError(f"{agent}: is no click agent (`maskwright train {AGENT}`); give it with --run")
        self.sam, self.pictures, self.run, self.agent = sam, pictures, run, agent
        self._assistant: Assistant | None = None
        self._failure = ""

    def load(self) -> None:
        """Get SAM ready; the server answers meanwhile, as PyTorch alone takes seconds to import."""
        try:
            from maskwright.serve.assistant import Assistant

            self._assistant = Assistant(self.sam, self.pictures)
        except Exception as error:
            # Nobody waits for this thread: without a word the page would wait for SAM for ever.
            logging.getLogger(__name__).exception("the networks cannot be loaded")
            self._failure = f"{type(error).__name__}: {error}"

    def close(self) -> None:
        if self._assistant is not None:
            self._assistant.close()

    def describe(self) -> dict[str, Any]:
        """SAM's name, state and message, see :class:`Assistant`."""
        ready = self._assistant
        if ready is None:
            state, message = ("failed", self._failure) if self._failure else ("loading", "")
        else:
            state, message = ready.state, ready.message
        return {"id": self.sam, "state": state, "message": message}

    @property
    def is_loading(self) -> bool:
        return self.describe()["state"] == "loading"

    @property
    def assistant(self) -> Assistant:
        """Raises WireError while it is being loaded, or where it cannot be."""
        if self._failure:
            raise WireError(f"the networks are not there: {self._failure}", 503)
        if self._assistant is None:
            raise WireError("SAM is still loading; try again in a few seconds", 503)
        return self._assistant

    @property
    def categories(self) -> list[str]:
        """Of the run, by id. Raises MaskwrightError where it has gone."""
        return [] if self.run is None else categories_of(self.run)

    async def loaded(self) -> Assistant:
        """Waits for it. Raises WireError as ``assistant`` does."""
        for _ in range(int(10 * PATIENCE)):
            if self._assistant is not None or self._failure:
                break
            await asyncio.sleep(0.1)
        return self.assistant


async def answer_of(future: Future[Answer]) -> Answer:
    """What the networks answer. Raises WireError where they take too long."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE)
    except TimeoutError:
        raise WireError("the answer took too long; try again", 503) from None


def recipe_of(run: Path) -> str:
    """The recipe that made the model of a run or model folder. Raises MaskwrightError where there is none."""
    return _config_of(run)[0]


def categories_of(run: Path) -> list[str]:
    """The categories of a model by id, the background first. Raises MaskwrightError where there is none."""
    return _config_of(run)[1]


def _config_of(run: Path) -> tuple[str, list[str]]:
    """Recipe and categories, from the model's configuration alone: reading them needs no PyTorch, and loading it checks the rest."""
    for folder in (run / "model", run):
        if (folder / "model.safetensors").is_file():
            config = read_json(folder / "config.json")
            config = config if isinstance(config, dict) else {}
            recipe, categories = config.get("recipe"), config.get("categories")
            if isinstance(recipe, str) and isinstance(categories, list):
                return recipe, [str(each) for each in categories]
    raise MaskwrightError(f"{run}: holds no trained model; name a run of `maskwright train`, or its model folder")
