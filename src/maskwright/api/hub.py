"""The Hugging Face hub: sharing a model, and finding one where a run directory may be named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maskwright.errors import MaskwrightError
from maskwright.export.hub_names import HubName, hub_name, is_hub_name
from maskwright.recipes import RECIPES

if TYPE_CHECKING:
    from maskwright.export.hub import Pushed


def push(
    run: str | Path,
    repo: str,
    *,
    licence: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Bring a trained model to the Hugging Face hub, in one commit: ``config.json``, safetensors and a card.

    The card (``README.md``) tells recipe, data, labels and validation as the training wrote them, the scores of ``maskwright evaluate``
    that lie in the run, and the licence. You are logged in by ``hf auth login``, or by the environment variable ``HF_TOKEN``.

    Args:
        run: a run directory, or the model folder in it.
        repo: ``OWNER/NAME``, made if it is not there.
        licence: its identifier on the hub, such as ``apache-2.0``.
        private: of a new repository: only its owner may see it.
        revision: a branch, made if it is not there; left out, ``main``.
        message: of the commit.

    Returns:
        ``url``, ``revision`` (the commit), ``scores`` (splits on the card) and ``notes``.

    Raises:
        WeightsError: no model there, or it is damaged.
        MaskwrightError: no name on the hub, not allowed, or the hub cannot be reached.

    >>> maskwright.push("runs/polyps", "me/polyps", licence="apache-2.0").url
    >>> maskwright.load("hf://me/polyps")
    """
    name = hub_name(repo)
    if revision is not None and name.revision is not None:
        raise MaskwrightError(f"{repo}: names a revision already; leave --revision out")
    from maskwright.engine.model_folder import find_model

    find_model(run)
    from maskwright.engine.model import Model
    from maskwright.export import hub

    model = Model.open(run, tuple(RECIPES))
    target = HubName(name.repo, revision or name.revision)
    return hub.push(model, Path(run), target, licence=licence, private=private, message=message)


def located(path: str | Path, revision: str | None = None) -> Path:
    """Where a model lies that may be on the hub, as ``hf://OWNER/NAME``; fetched from there if need be.

    Raises:
        WeightsError: there is no model.
        MaskwrightError: a revision of a model that is not on the hub.
    """
    from maskwright.engine.model_folder import find_model

    if not is_hub_name(path):
        if revision is not None:
            raise MaskwrightError(
                f"{path}: only models on the hub have revisions; write hf://OWNER/NAME, or leave it out"
            )
        find_model(path)
        return Path(path)
    name = hub_name(path)
    if revision is not None and name.revision is not None:
        raise MaskwrightError(f"{path}: names a revision already; give one of the two")
    from maskwright.export import hub

    return hub.fetch(HubName(name.repo, revision or name.revision))
