"""The errors a user can mend. The command line prints their text without a traceback and exits with status 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from maskwright.problems import Problem, as_problem, lines


class MaskwrightError(Exception):
    """Something in the user's hands is wrong; the text names the file, the place and the remedy."""


def require(rules: Mapping[str, bool]) -> None:
    """Raise a MaskwrightError with every rule that does not hold."""
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise MaskwrightError("; ".join(broken))


def canvas_rule(option: str, size: int | None) -> dict[str, bool]:
    """The rule for ``require`` that the side of a canvas has to keep; None stands for the checkpoint's own."""
    return {f"--{option} {size}: must be a multiple of 32": size is None or (size >= 32 and size % 32 == 0)}


def crop_rules(crop: int | None, scale: float | None) -> dict[str, bool]:
    """The rules for ``require`` of the options about crops, which all recipes share."""
    return {
        f"--crop {crop}: must be 0 (whole images) or at least 32 pixels": crop is None or crop == 0 or crop >= 32,
        f"--scale {scale}: must be above 0": scale is None or 0 < scale < math.inf,
        "--crop and --scale both say how much of an image fills the canvas: give one of the two": not crop
        or scale is None,
    }


def validation_rules(validations: int, images: int, patience: int | None) -> dict[str, bool]:
    """The rules for ``require`` of the options about validation, which all recipes share."""
    return {
        f"--validations {validations}: must be at least 1": validations >= 1,
        f"--validation-images {images}: must be 0 (all) or more": images >= 0,
        f"--patience {patience}: must be at least 1": patience is None or patience >= 1,
    }


class DataError(MaskwrightError):
    """One or more problems in a dataset, all reported at once.

    Attributes:
        problems: one record each; as a text it is a line that names file, place and remedy.
        where: the dataset, file or folder that they are about.
    """

    def __init__(self, problems: Sequence[str], where: str = "") -> None:
        """
        Args:
            problems: records, or plain lines of text.
            where: what they are about, for the first line.
        """
        self.problems: list[Problem] = [as_problem(problem) for problem in problems]
        self.where = where
        super().__init__(self.text())

    def text(self, most: int | None = 3) -> str:
        """The message: of each kind the first ``most`` problems and a count of the others; all where ``most`` is None."""
        if len(self.problems) == 1:
            return f"{self.where}: {self.problems[0]}" if self.where else self.problems[0]
        head = f"{len(self.problems)} problems{' in ' + self.where if self.where else ''}:"
        return "\n  - ".join([head, *lines(self.problems, most)])


class WeightsError(MaskwrightError):
    """Weights that are missing, damaged, of another model, or in a format that is not loaded."""


class NotFiniteError(WeightsError):
    """What a network gives is NaN or infinite, so its weights are damaged or its training has diverged."""

    def __init__(self, where: str = "the network") -> None:
        super().__init__(
            f"{where}: what it gives is not a finite number (NaN or infinity): its weights are damaged, or its training has "
            "diverged; restore the folder from the run that made it, or train again with a lower learning rate"
        )


class RunError(MaskwrightError):
    """A run directory that cannot be used as asked."""


class MissingPackageError(MaskwrightError, ImportError):
    """A package that not everybody needs is not installed."""

    def __init__(self, need: str, extra: str, error: ImportError) -> None:
        """
        Args:
            need: what needs which package, "A needs B".
            extra: the name under which maskwright's own metadata list it.
            error: what came of importing it.
        """
        super().__init__(
            f"{need}, which cannot be imported ({error}); install it with: pip install 'maskwright[{extra}]'"
        )


BUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What PyTorch and networks raise for sizes that do not go together, and for values that they cannot use."""
