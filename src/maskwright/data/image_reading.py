"""How image files are read where they leave a choice: which page, which channels, which numbers are black and white."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from maskwright.errors import MaskwrightError, require


def _numbers(kind: Callable[[str], Any], metavar: str) -> Any:
    """Of an option that takes numbers with commas between them, such as ``--channels 2,0,1``."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: tuple(kind(part) for part in words[0].split(",")),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(f"{part:g}" for part in value or ())],
    )


_OPTIONAL = tyro.conf.arg(help_behavior_hint="(optional)")


@dataclass(frozen=True)
class ImageReading:
    """How image files are read where they leave a choice. What a model has learnt with is used again when it predicts."""

    page: Annotated[int | None, _OPTIONAL] = None
    """Of files with several pages or frames, read this one, counted from 0. Left out, a TIFF of several pages is refused, and
    of an animation the first frame counts."""
    channels: Annotated[tuple[int, ...] | None, _numbers(int, "R,G,B"), _OPTIONAL] = None
    """Which channels, counted from 0, are read as red, green and blue, such as 2,0,1; or the one that is read as grey. Left
    out, images of more than three channels (and an alpha) are refused."""
    intensity: Annotated[tuple[float, ...] | None, _numbers(float, "LOW,HIGH"), _OPTIONAL] = None
    """In images of more than 8 bits, and of floats: the numbers that become black and white, such as 0,4095; what lies beyond
    is cut off. Left out, one range for all images comes of the training split; images of 8 bits stay as they are."""

    def __post_init__(self) -> None:
        """Raises MaskwrightError, which names all that is wrong."""
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), list):  # as JSON has them
                object.__setattr__(self, field.name, tuple(value))
        channels, intensity = self.channels, self.intensity
        require(
            {
                f"--page {self.page}: must be 0 or more": self.page is None or self.page >= 0,
                f"--channels {_listed(channels)}: must be one number or three, each 0 or more": channels is None
                or (len(channels) in (1, 3) and min(channels) >= 0),
                f"--intensity {_listed(intensity)}: must be two numbers, the first the lower": intensity is None
                or (len(intensity) == 2 and all(map(math.isfinite, intensity)) and intensity[0] < intensity[1]),
            }
        )

    def over(self, other: ImageReading) -> ImageReading:
        """What is said here, and for all else what ``other`` says."""
        return ImageReading(**{name: value for each in (other, self) for name, value in each.as_dict().items()})

    def as_dict(self) -> dict[str, Any]:
        """What is said, by name; empty where nothing is. As JSON it is what :meth:`of` takes."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ImageReading:
        """What :meth:`as_dict` gave, also by way of JSON. Raises MaskwrightError for other values."""
        try:
            return cls(**values)
        except TypeError as error:
            raise MaskwrightError(f"image_reading: {error}") from error

    @property
    def options(self) -> str:
        """As options of a command: ``--page 3 --channels 2,0,1``; empty where nothing is said."""
        return " ".join(
            f"--{name} {_listed(value) if isinstance(value, tuple) else value}"
            for name, value in self.as_dict().items()
        )


def _listed(values: tuple[float, ...] | None) -> str:
    return ",".join(f"{value:.10g}" for value in values or ())


PLAIN = ImageReading()
"""Nothing is said."""
