"""Verdicts that err seldom: found, not there, or unsure, by conformal prediction.

A presence score is compared with those of images in which the thing was, and was not. With p_absent = (1 + number of negatives that
score at least as high) / (number of negatives + 1), and p_present likewise, an image without the thing gets p_absent ≤ α with a
probability of at most α, as long as it is drawn like those negatives (Vovk et al., 2005). An answer is given where one of the
two is ruled out and the other is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Verdict: TypeAlias = Literal["found", "not there", "unsure"]


def least_scores(alpha: float) -> int:
    """Scores of a side that ruling it out at this α needs: 9 for .1, 19 for .05."""
    return math.ceil(1 / alpha - 1e-9) - 1


ENOUGH = least_scores(0.1)
"""A user's own scores of a side from which they count, in place of those about other things."""


@dataclass(frozen=True)
class Calibration:
    """Presence scores whose truth is known.

    Attributes:
        present: (P,) of images with the thing, ascending.
        absent: (N,) of images without it, ascending.
        lowest: nothing that scores as high is ruled out to be there, whatever the others say; ``highest``: nothing that scores as low is
            ruled out not to be there.
    """

    present: NDArray[np.float64]
    absent: NDArray[np.float64]
    lowest: float = math.inf
    highest: float = -math.inf

    @staticmethod
    def of(present: ArrayLike, absent: ArrayLike) -> Calibration:
        """Of scores in any order."""
        return Calibration(np.sort(np.asarray(present, float)), np.sort(np.asarray(absent, float)))

    def sharpened(self, own: Calibration) -> Calibration:
        """With a user's own scores in place of these, on each side where there are at least ``ENOUGH`` of them.

        Fewer cannot stand alone. They narrow what is ruled out: nothing that scores like one of them is.
        """
        few_present, few_absent = (0 < len(side) < ENOUGH for side in (own.present, own.absent))
        return Calibration(
            own.present if len(own.present) >= ENOUGH else self.present,
            own.absent if len(own.absent) >= ENOUGH else self.absent,
            float(own.present[0]) if few_present else math.inf,
            float(own.absent[-1]) if few_absent else -math.inf,
        )

    def p_values(self, score: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """p_absent and p_present of scores, each in 0..1, of their shape."""
        scores = np.asarray(score, float)
        above = len(self.absent) - np.searchsorted(self.absent, scores, "left")
        below = np.searchsorted(self.present, scores, "right")
        p_absent, p_present = (1 + above) / (len(self.absent) + 1), (1 + below) / (len(self.present) + 1)
        return np.where(scores <= self.highest, 1.0, p_absent), np.where(scores >= self.lowest, 1.0, p_present)

    def verdict(self, score: float, alpha: float) -> Verdict:
        """What can be said of an image with this score at an error rate of α."""
        absent, present = (float(p) for p in self.p_values(score))
        if absent <= alpha < present:
            return "found"
        return "not there" if present <= alpha < absent else "unsure"

    def as_dict(self) -> dict[str, Sequence[float]]:
        """As JSON, rounded to four digits."""
        return {name: [round(float(v), 4) for v in getattr(self, name)] for name in ("present", "absent")}

    @staticmethod
    def of_dict(content: Mapping[str, Any]) -> Calibration:
        """The counterpart of :meth:`as_dict`."""
        return Calibration.of(content["present"], content["absent"])
