"""The names of what masks of large images are written as; importing them imports nothing heavy."""

from __future__ import annotations

from typing import Literal, TypeAlias

WriteName: TypeAlias = Literal["tiff", "zarr", "geojson", "gpkg"]
"""What masks of large images are written as."""
