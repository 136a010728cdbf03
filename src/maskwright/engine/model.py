"""Model folders: the part that is the same for all recipes, and how it is read and checked.

::

    model/
      config.json          format, version, recipe, categories, size, and what the recipe needs to build its networks
      model.safetensors    the main network; further ones beside it by name
      README.md            the model card
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from maskwright.data.labels import IGNORE
from maskwright.engine.weights import load_state, load_tensors
from maskwright.errors import WeightsError

FORMAT, VERSION = "maskwright-model", 1


def describe(
    recipe: str, categories: Sequence[str], size: int, data: str | None = None, **parts: Any
) -> dict[str, Any]:
    """The ``config.json`` of a model folder.

    Args:
        recipe: its name.
        categories: names by id, ``background`` first.
        size: side of the square canvas in pixels.
        data: digest of the fingerprint of what it was trained on.
        parts: what the recipe needs to build its networks again, as JSON.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "recipe": recipe,
        "categories": [*categories],
        "size": size,
        "data": data,
        **parts,
    }


def weights_beside(source: str, size: int, signature: str) -> dict[str, Any]:
    """The entry of ``config.json`` for weights that a model needs and its folder does not hold; see ``Model.require_weights``."""
    return {"source": source, "size": size, "signature": signature}


@dataclass(frozen=True)
class Model:
    """A model folder whose configuration was read and checked. Made by :meth:`open`.

    Attributes:
        folder: with ``config.json`` and ``model.safetensors``.
        config: see :func:`describe`.
        signature: 16 hexadecimal digits that change with the weights and the configuration.
    """

    folder: Path
    config: dict[str, Any]
    signature: str

    @property
    def recipe(self) -> str:
        return self.config["recipe"]

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.config["categories"])

    @property
    def size(self) -> int:
        return self.config["size"]

    @classmethod
    def open(cls, path: str | Path, recipes: Sequence[str]) -> Model:
        """Read a run directory, or the ``model`` folder in it (or a copy of that).

        Args:
            recipes: names of the recipes whose models can be read.

        Raises:
            WeightsError: no model there, or a configuration that is damaged, of another format, version or recipe.
        """
        folder = _folder(Path(path))
        text = _read_text(folder / "config.json")
        config = _checked(folder / "config.json", text, recipes)
        digest = hashlib.sha256()
        for weights in sorted(folder.glob("*.safetensors")):
            with weights.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(text.encode())
        return cls(folder, config, digest.hexdigest()[:16])

    def fill(self, network: nn.Module, name: str = "model") -> None:
        """Load ``<name>.safetensors`` into a network.

        Raises:
            WeightsError: the file is missing or damaged, or tensors do not fit; all missing and unexpected are named.
        """
        weights = self.folder / f"{name}.safetensors"
        try:
            load_state(network, load_tensors(weights), weights)
        except WeightsError as error:
            raise WeightsError(
                f"{error}\nRestore the model folder from the run that made it, or train it again."
            ) from error

    def require_weights(self, kind: str, source: str, now: str, then: str, earlier: str | None = None) -> None:
        """Raise WeightsError if a network that is not part of the folder, a SAM or CLIP, is not the one the model was trained for.

        Args:
            earlier: what the weights it was trained for are called, if they came with an earlier maskwright.
        """
        if now == then:
            return
        if earlier:
            remedy = (
                f"that is {earlier}, which this maskwright no longer brings; train it again, or install that version"
            )
        else:
            remedy = "train it again, or bring the weights back"
        raise WeightsError(
            f"{self.folder}: was trained for other weights of {kind} {source!r} than those that are here now; {remedy}"
        )

    def misfit(self, part: str, error: Exception) -> WeightsError:
        """The error to raise where no network can be built from ``config[part]``."""
        return WeightsError(
            f"{self.folder / 'config.json'}: {part}: no network can be built from this ({type(error).__name__}: "
            f"{error}); restore the file from the run that made it"
        )


def _folder(path: Path) -> Path:
    if not path.exists():
        raise WeightsError(f"{path}: there is no such folder; give a run directory, or the model folder in it")
    if not path.is_dir():
        raise WeightsError(f"{path}: is a file; give the run directory, or the model folder in it")
    folder = path / "model" if (path / "model").is_dir() else path
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if (path / "last").is_dir() and folder == path:
        raise WeightsError(f"{path}: this run has no model yet; continue it with --resume until it ends")
    if missing:
        remedy = "give a run directory, or restore its model folder"
        raise WeightsError(f"{folder}: {' and '.join(missing)} missing, so this is no model folder; {remedy}")
    return folder


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise WeightsError(f"{path}: cannot be read ({reason}); check the file and its permissions") from error


def _checked(path: Path, text: str, recipes: Sequence[str]) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{path}: not valid JSON ({error}); restore the file from the run that made it") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        other = config.get("format") if isinstance(config, dict) else None
        raise WeightsError(
            f"{path}: the format is {other!r}, not {FORMAT!r}: this is no model that this maskwright reads; "
            "give a run directory, or the model folder in it"
        )
    if config.get("version") != VERSION:
        raise WeightsError(
            f"{path}: version {config.get('version')!r} of the model format, this maskwright reads {VERSION}; "
            "install the maskwright that made it, or train again"
        )
    names, size = config.get("categories"), config.get("size")
    rules: Mapping[str, bool] = {
        f"recipe must be one of: {', '.join(recipes)}": config.get("recipe") in recipes,
        f"categories must be 2 to {IGNORE} different texts": isinstance(names, list)
        and 2 <= len(names) <= IGNORE
        and all(isinstance(name, str) for name in names)
        and len(set(names)) == len(names),
        "size must be a whole number above 0": isinstance(size, int) and not isinstance(size, bool) and size > 0,
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise WeightsError(f"{path}: {'; '.join(broken)}; restore the file from the run that made it")
    return config
