"""Model folders: the part that is the same for all recipes, and how it is read and checked.

::

    model/
      config.json          format, version, recipe, categories, size, what the recipe needs to build its networks, and checksums
      model.safetensors    the main network; further ones beside it by name
      README.md            the model card
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import nn

from maskwright.data.fields import read_json
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.labels import IGNORE
from maskwright.data.schema import Fields, Items, Kind, Maybe, Named, OneOf, Real, Text, Whole
from maskwright.engine.model_folder import find_model
from maskwright.engine.weights import CHECKSUMS, checksums, load_state, load_tensors, misfits, raise_weights, shapes_in
from maskwright.errors import BUILD_ERRORS, DataError, MaskwrightError, WeightsError

FORMAT, VERSION = "maskwright-model", 2
_OLDER = (1,)
"""Versions that are still read. 1 left out what was a default of ``transformers``, and had no checksums."""

SIDE = Whole(32, 8192, step=32)
"""Of a canvas, in pixels."""

SAM_BESIDE = Fields({"source": Text(), "size": SIDE, "signature": Text(64)})
CLIP_BESIDE = Fields({"source": Text(), "size": Whole(1, 8192), "signature": Text(64)})
"""What :func:`weights_beside` gives, of a SAM and of a CLIP."""

N = TypeVar("N", bound=nn.Module)


def describe(
    recipe: str,
    categories: Sequence[str],
    size: int,
    data: str | None = None,
    image_reading: ImageReading = PLAIN,
    **parts: Any,
) -> dict[str, Any]:
    """The ``config.json`` of a model folder.

    Args:
        recipe: its name.
        categories: names by id, ``background`` first.
        size: side of the square canvas in pixels.
        data: digest of the fingerprint of what it was trained on.
        image_reading: how the images that it learnt from were read; there where it says anything.
        parts: what the recipe needs to build its networks again, as JSON; and ``crop``, the side in pixels of the image of the
            squares that it learnt from, where it did.
    """
    said = {"image_reading": image_reading.as_dict()} if image_reading != PLAIN else {}
    return {
        "format": FORMAT,
        "version": VERSION,
        "recipe": recipe,
        "categories": [*categories],
        "size": size,
        "data": data,
        **said,
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
    def version(self) -> int:
        """Of the format: 1, or ``VERSION``."""
        return self.config["version"]

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.config["categories"])

    @property
    def size(self) -> int:
        return self.config["size"]

    @property
    def crop(self) -> int | None:
        """Side in pixels of the image of the squares that it learnt from; None: of whole images."""
        return self.config.get("crop")

    @property
    def image_reading(self) -> ImageReading:
        """How the images that it learnt from were read. Raises WeightsError for values that cannot be."""
        try:
            return ImageReading.of(self.config.get("image_reading", {}))
        except MaskwrightError as error:
            self.refuse([f"image_reading: {error}"])

    @classmethod
    def open(cls, path: str | Path, recipes: Sequence[str]) -> Model:
        """Read a run directory, or the ``model`` folder in it (or a copy of that).

        What the recipe wrote into the configuration is checked by :meth:`parts`.

        Args:
            recipes: names of the recipes whose models can be read.

        Raises:
            WeightsError: no model there, files that were changed since it was exported, or a configuration that is damaged, or of
                another format, version or recipe.
        """
        folder = find_model(path)
        config = _read(folder / "config.json", recipes)
        now = checksums(folder, config)
        if config["version"] == VERSION:
            _compare(folder, config.get(CHECKSUMS), now)
        digest = hashlib.sha256("".join(value for _, value in sorted(now.items())).encode())
        return cls(folder, config, digest.hexdigest()[:16])

    def parts(
        self, fields: Mapping[str, Kind], *, optional: Sequence[str] = (), older: Upgrade | None = None
    ) -> dict[str, Any]:
        """What the recipe wrote into the configuration, checked field by field.

        Args:
            fields: its fields by name; there are no others.
            optional: those that may be missing.
            older: makes what version 1 of the format wrote complete.

        Raises:
            WeightsError: fields that are missing, unknown, of another type or out of bounds; all are named.
        """
        config = {name: value for name, value in self.config.items() if name != CHECKSUMS or self.version != VERSION}
        if older is not None and self.version != VERSION:
            config = config | older({name: config.get(name) for name in fields if name in config})
        schema = Fields(
            {**_HEAD, **fields},
            frozenset(
                [*optional, "data", "image_reading", "crop"]
                if "crop" not in fields
                else [*optional, "data", "image_reading"]
            ),
        )
        problems = [*schema.problems(config, ""), *_twice(config.get("categories"))]
        if problems:
            self.refuse(problems)
        return {name: config[name] for name in fields if name in config}

    def refuse(self, problems: Sequence[str]) -> NoReturn:
        """Raise WeightsError for a configuration with problems, one line each."""
        made = "" if self.version == VERSION else f" (version {self.version} of the model format)"
        lines = "\n  - ".join([f"{len(problems)} fields are wrong:", *problems]) if len(problems) > 1 else problems[0]
        raise WeightsError(f"{self.folder / 'config.json'}{made}: {lines}; {_RESTORE}")

    def build(self, make: Callable[[], N], name: str = "model") -> N:
        """A network with the weights of ``<name>.safetensors``.

        Args:
            make: builds it, with any weights. It is built without memory first, and for real only if its tensors are those of the file.

        Raises:
            WeightsError: the file is missing or damaged, no network can be built, or its tensors are others; all of them are named.
        """
        weights = self.folder / f"{name}.safetensors"
        try:
            with torch.device("meta"):
                sketch = make()
        except BUILD_ERRORS as error:
            raise self.misfit(name, error) from error
        try:
            raise_weights(str(weights), misfits(sketch, shapes_in(weights)))
        except WeightsError as error:
            raise WeightsError(
                f"{error}\nRestore the model folder from the run that made it, or train it again."
            ) from error
        network = make()
        self.fill(network, name)
        return network

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


def _read(path: Path, recipes: Sequence[str]) -> dict[str, Any]:
    """A configuration of a format, version and recipe that are read."""
    try:
        config = read_json(path)
    except DataError as error:
        raise WeightsError(f"{error}; {_RESTORE}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        other = config.get("format") if isinstance(config, dict) else None
        raise WeightsError(
            f"{path}: the format is {other!r}, not {FORMAT!r}: this is no model that this maskwright reads; "
            "give a run directory, or the model folder in it"
        )
    version = config.get("version")
    if type(version) is not int or version not in (*_OLDER, VERSION):
        raise WeightsError(
            f"{path}: version {version!r} of the model format, this maskwright reads {', '.join(map(str, (*_OLDER, VERSION)))}; "
            "install the maskwright that made it, or train again"
        )
    if config.get("recipe") not in recipes:
        raise WeightsError(
            f"{path}: recipe must be one of: {', '.join(recipes)}, found {config.get('recipe')!r}; {_RESTORE}"
        )
    return config


def _compare(folder: Path, then: Any, now: Mapping[str, str]) -> None:
    """Raise WeightsError where the files of a model folder are not those that were exported."""
    if problems := list(Named(Text(64), 64).problems(then, CHECKSUMS)):
        raise WeightsError(f"{folder / 'config.json'}: {'; '.join(problems)}; {_RESTORE}")
    names = {name: "config.json" if name == "config" else name for name in {*then, *now}}
    missing = sorted(names[name] for name in then.keys() - now.keys())
    added = sorted(names[name] for name in now.keys() - then.keys())
    changed = sorted(names[name] for name in then.keys() & now.keys() if then[name] != now[name])
    for name in changed:
        if name.endswith(".safetensors"):
            shapes_in(folder / name)  # says what became of it, where that can be seen
    problems = [
        f"{', '.join(some)} {what}"
        for some, what in ((changed, "changed"), (missing, "missing"), (added, "added"))
        if some
    ]
    if problems:
        raise WeightsError(f"{folder}: {' and '.join(problems)} since the model was exported; {_RESTORE}")


def _twice(names: Any) -> list[str]:
    if isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) < len(names):
        return ["categories: a name is there twice"]
    return []


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""What a recipe wrote in version 1 of the format → the same in this version."""

_RESTORE = "restore the folder from the run that made it, or train it again"

_HEAD: dict[str, Kind] = {
    "format": OneOf((FORMAT,)),
    "version": OneOf((*_OLDER, VERSION)),
    "recipe": Text(),
    "categories": Items(Text(), 2, IGNORE),
    "size": SIDE,
    "crop": Whole(32, 1 << 20),
    "data": Maybe(Text(200)),
    "image_reading": Fields(
        {
            "page": Whole(0, 1 << 20),
            "channels": Items(Whole(0, 1 << 16), 1, 3),
            "intensity": Items(Real(-1e38, 1e38), 2, 2),
        },
        None,
    ),
}
