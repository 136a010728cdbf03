"""`maskwright push`: a model for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from maskwright.cli.shared import OPTIONAL, RunFolder


@dataclass
class Push:
    """Bring a trained model to the Hugging Face hub: safetensors, its configuration, and a card with data, scores and licence.

    Others then write hf://OWNER/NAME where you write RUN. Log in with `hf auth login` first.
    """

    run: RunFolder
    """Run directory, or the model folder in it."""
    repo: Annotated[Positional[str], arg(metavar="OWNER/NAME")]
    """Where to; made if it is not there."""
    licence: Annotated[str | None, OPTIONAL] = None
    """Its identifier on the hub, such as apache-2.0 or cc-by-nc-4.0."""
    private: FlagCreatePairsOff[bool] = False
    """Of a new repository: only its owner may see it."""
    revision: Annotated[str | None, OPTIONAL] = None
    """A branch, made if it is not there; left out, main."""
    message: Annotated[str | None, OPTIONAL] = None
    """Of the commit."""

    def __call__(self) -> None:
        from maskwright.api import busy, push

        with busy("pushing"):
            pushed = push(**vars(self))
        print(f"pushed: {pushed.url}")
        if pushed.scores:
            print(f"  with the scores of: {', '.join(pushed.scores)}")
        for note in pushed.notes:
            print(f"  note: {note}")
