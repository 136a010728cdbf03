"""A folder of masks that are to be refined, and which of them belongs to which image."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from pathlib import Path

from maskwright.data.fields import read_json
from maskwright.errors import DataError


class MaskFolder:
    """The masks of a folder by image; the folder is searched at the first call of ``find``.

    If ``maskwright predict`` wrote the folder, its index decides. Else the ends of the paths do: ``case1/001.png`` belongs to
    ``case1/001.jpg``, and a mask whose name occurs once to the image of that name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._owners: dict[Path, str] = {}

    @cached_property
    def _of_image(self) -> dict[str, Path]:
        """By the image's path, where there is an index."""
        index = self.folder / "predictions.json"
        rows = read_json(index).get("images", []) if index.is_file() else []
        return {row["file"]: self.folder / row["mask"] for row in rows}

    @cached_property
    def _by_path(self) -> dict[str, Path]:
        """By the path below the folder, without suffix."""
        below = self.folder / "masks" if (self.folder / "masks").is_dir() else self.folder
        return {path.relative_to(below).with_suffix("").as_posix(): path for path in sorted(below.rglob("*.png"))}

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """By the name without suffix."""
        paths: dict[str, list[Path]] = defaultdict(list)
        for path in self._by_path.values():
            paths[path.stem].append(path)
        return paths

    def find(self, image: Path) -> Path | None:
        """The mask of an image (or of a name, where the image is no file), or None.

        Raises:
            DataError: several masks fit, or the mask was already found for another image.
        """
        path = self._of_image.get(str(image.absolute())) or self._by_longest_end(image)
        if path is None:
            return None
        owner = self._owners.setdefault(path, str(image))
        if owner != str(image):
            raise DataError(
                [
                    f"{path}: is it the mask of {owner} or of {image}? Put masks into folders of the same names as the images'"
                ]
            )
        return path

    def _by_longest_end(self, image: Path) -> Path | None:
        parts = image.with_name(image.stem).parts
        for first in range(len(parts) - 1):
            if path := self._by_path.get("/".join(parts[first:])):
                return path
        candidates = self._by_name.get(image.stem, [])
        if len(candidates) > 1:
            raise DataError(
                [
                    f"{self.folder}: which is the mask of {image}? {len(candidates)} are named {image.stem}.png; put them into "
                    "folders of the same names as the images'"
                ]
            )
        return candidates[0] if candidates else None
