"""What a new training starts from, with ``--init``: the networks of an earlier run, or of a model folder.

The everyday loop: a model is trained, its masks are looked at, labels are added and mended, and the next training starts from what the
last one has learnt instead of from the beginning. A run that has no model yet gives the networks of its newest checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from maskwright.data.fingerprint import Fingerprint
from maskwright.engine.checkpoints import read_checkpoint
from maskwright.engine.model import Model
from maskwright.engine.weights import key_problems, load_tensors
from maskwright.errors import RunError, WeightsError


@dataclass(frozen=True)
class Heads:
    """The tensors of a network that have one row for each category.

    Attributes:
        names: their beginnings.
        rows: categories → what each row stands for, in order.
    """

    names: tuple[str, ...]
    rows: Callable[[Sequence[str]], Sequence[str]] = tuple


@dataclass
class Origin:
    """Made by :meth:`open`; a recipe takes from it what it can use.

    Attributes:
        folder: as the user named it.
        categories: of the earlier training.
        config: the model's ``config.json``; empty where the networks are those of a checkpoint.
        settings: of the earlier run; empty where only a model folder is there.
        signature: of the model, or ``step-<n>`` of a checkpoint.
        tensors: by name of the network, as files of a model folder are named: ``model``, ``sam`` ...
        taken: names of what was taken over, for the user.
    """

    folder: Path
    categories: tuple[str, ...]
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    signature: str
    tensors: dict[str, dict[str, Tensor]]
    taken: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, recipe: str, networks: Mapping[str, str]) -> Origin:
        """Read a run directory or a model folder.

        Args:
            recipe: that it must be of.
            networks: name of the file in a model folder → group of tensors in a checkpoint, with a prefix of their names after ``:``.

        Raises:
            WeightsError: there is neither model nor checkpoint; they are damaged, or of another recipe.
            RunError: the run's own files are damaged.
        """
        settings: Mapping[str, Any] = {}
        record = _json(folder / "config.json") if (folder / "last").is_dir() else {}
        if record:
            settings = record["config"]
            if record.get("recipe", recipe) != recipe:
                raise WeightsError(f"--init {folder}: is a run of {record.get('recipe')}, this is one of {recipe}")
            if not (folder / "model" / "model.safetensors").is_file() and (checkpoint := read_checkpoint(folder)):
                tensors = {}
                for name, group in networks.items():
                    group, _, prefix = group.partition(":")
                    if group in checkpoint.tensors:
                        values = checkpoint.tensors[group].items()
                        tensors[name] = {k.removeprefix(prefix): v for k, v in values if k.startswith(prefix)}
                categories = _fingerprint(folder / "data.json").categories
                return cls(folder, categories, {}, settings, f"step-{checkpoint.step}", tensors)
        model = Model.open(folder, (recipe,))
        files = {name: model.folder / f"{name}.safetensors" for name in networks}
        tensors = {name: load_tensors(path) for name, path in files.items() if path.is_file()}
        return cls(folder, model.categories, model.config, settings, model.signature, tensors)

    def record(self) -> dict[str, Any]:
        """What ``config.json`` of the new run says of it."""
        return {"folder": str(self.folder.resolve()), "signature": self.signature, "taken": self.taken}

    def __str__(self) -> str:
        return f"{self.folder} ({self.signature}): {', '.join(self.taken)}"

    def fill(self, network: nn.Module, name: str, **how: Any) -> None:
        """Take over the weights of a network, in place; ``how`` and errors as of :meth:`take`."""
        network.load_state_dict(self.take(network.state_dict(), name, **how))

    def take(
        self,
        expected: Mapping[str, Tensor],
        name: str,
        *,
        flags: str,
        heads: Heads | None = None,
        categories: Sequence[str] = (),
        fresh: Collection[str] = (),
        earlier: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The weights of a network: the earlier ones.

        Args:
            expected: as it would start without ``--init``.
            name: of the earlier network, see ``tensors``.
            flags: the options that decide the architecture, for the message.
            heads: rows of these tensors are taken by the names of the categories; those of new categories are the expected ones.
            categories: of this training.
            fresh: names of tensors that are not taken over.
            earlier: in place of ``tensors[name]``.

        Raises:
            WeightsError: it is another network.
        """
        found = dict(self.tensors.get(name, {}) if earlier is None else earlier)
        if not found:
            raise WeightsError(f"--init {self.folder}: has no network {name!r} to start from; {self._remedy(flags)}")
        found |= {key: expected[key] for key in fresh}
        if heads is not None:
            then, now = list(heads.rows(self.categories)), list(heads.rows(categories))
            pairs = [(now.index(row), then.index(row)) for row in now if row in then]
            here, there = [a for a, _ in pairs], [b for _, b in pairs]
            for key, value in found.items():
                if key.startswith(heads.names) and key in expected and len(value) == len(then):
                    found[key] = expected[key].clone()
                    found[key][here] = value[there].to(found[key])
        problems = key_problems(expected, found)
        problems += [
            f"{key}: shape {tuple(found[key].shape)} there, {tuple(value.shape)} here"
            for key, value in expected.items()
            if key in found and found[key].shape != value.shape
        ]
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise WeightsError(
                f"--init {self.folder}: its {name} is another network than this training's ({'; '.join(problems[:3])}{more}); "
                f"{self._remedy(flags)}"
            )
        new = [category for category in categories if category not in self.categories]
        self.taken.append(name + (f" (new categories: {', '.join(new)})" if heads is not None and new else ""))
        return found

    def require_sam(self, source: str, signature: str, then: str | None) -> None:
        """Raise WeightsError where the earlier networks are for another SAM.

        Args:
            source: of this training's SAM, and its signature.
            then: the signature of the earlier one; None where that is not recorded, and its source must be the same.
        """
        earlier = self.settings.get("sam", source) if then is None else then
        if earlier != (source if then is None else signature):
            named = self.settings.get("sam") or self._model_sam()
            raise WeightsError(
                f"--init {self.folder}: is for another SAM than --sam {source}"
                + (f"; give --sam {named}" if named else "")
            )

    def refuse(self, reason: str) -> RunError:
        """The error to raise where this training cannot start from it."""
        return RunError(f"--init {self.folder}: {reason}")

    def _model_sam(self) -> str | None:
        sam = self.config.get("sam") or self.config.get("in_context", {}).get("sam")
        return sam.get("source") if isinstance(sam, Mapping) else sam

    def _remedy(self, flags: str) -> str:
        """Which settings to give; those of the earlier run, where they are known."""
        names = [flag.strip() for flag in flags.split(",")]
        known = {name: self.settings.get(name.lstrip("-").replace("-", "_")) for name in names}
        told = " ".join(f"{name} {value}" for name, value in known.items() if value not in (None, False, ()))
        return f"give the settings that it was made with: {told or flags}"


def _json(path: Path) -> dict[str, Any]:
    """The record of a run; empty where there is none."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); give another run to --init") from error
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise RunError(
            f"{path}: is no record of a run of this version; give another run to --init, or its model folder"
        )
    return record


def _fingerprint(path: Path) -> Fingerprint:
    try:
        return Fingerprint.from_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}), so its categories are not known; give another run to --init"
        ) from error
