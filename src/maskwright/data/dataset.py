"""A dataset: samples that can be loaded from any format and saved as ``manifest.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from maskwright.data import cache, formats, manifest
from maskwright.data.choices import Crowd
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.labels import Samples
from maskwright.data.reading import Reading
from maskwright.data.registry import ReadName
from maskwright.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset(Samples):
    """Images and their labels under one folder. Immutable: every change gives a new dataset. See :class:`Samples`."""

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        format: ReadName | None = None,
        crowd: Crowd | None = None,
        root: str | Path | None = None,
        mend: bool = False,
        image_reading: ImageReading = PLAIN,
    ) -> Self:
        """Read a dataset; the format (``manifest.json``, COCO, ``images/`` + ``masks/``, CVAT, LabelMe, ...) is recognised.

        Args:
            path: a folder, or the JSON, XML or YAML file itself (for example ``polyps/splits_full.json``).
            format, crowd, root, mend: see :class:`maskwright.data.reading.Reading`.
            image_reading: which page, channels and range of intensity of the image files count, such as
                ``ImageReading(channels=(2, 0, 1))``.

        Raises:
            DataError: the structure cannot be read. Problems of the content are found by ``maskwright.data.check.check``.
        """
        content = formats.read(
            path, Reading(crowd, Path(root) if root is not None else None, mend, format, image_reading)
        )
        return cls(**vars(content)).with_image_reading(image_reading)

    def save(self, path: str | Path | None = None) -> Path:
        """Write ``manifest.json`` into the dataset's folder (or to ``path``, which must be inside it), by rename. Returns its path.

        Raises:
            DataError: the path is elsewhere, or the dataset holds what a manifest may not; nothing is written then.
        """
        elsewhere = [s.labels.mask.path for s in self if s.labels.mask and cache.holds(s.labels.mask.path)]
        if elsewhere:
            remedy = "write the dataset with `maskwright data convert --to manifest` instead"
            raise DataError([f"{elsewhere[0]}: a manifest names no masks that are kept in a cache elsewhere; {remedy}"])
        return manifest.write(self, path)
