"""The scorer: how good each candidate is, and whether the object is in the image at all. A tiny network and a logistic regression, shipped.

They learnt from episodes about other things than a user's (``tools/train_find_scorer.py``), so they know no category: all they see
is how matching, SAM's answers and the examples agree.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.files import write_atomic
from maskwright.errors import WeightsError
from maskwright.methods.find.clues import FEATURES
from maskwright.methods.find.verdicts import Calibration

BUNDLED = Path(__file__).with_name("nano_scorer.json")
"""The scorer for the bundled SAM."""

FORMAT = "maskwright-find-scorer-1"
HIDDEN = 24


class ScorerNet(nn.Module):
    """Features → one logit, from standardised features.

    Args:
        features: F.
        hidden: units of its layer; 0: none, which is a logistic regression.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        layers = [nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, 1)] if hidden else [nn.Linear(features, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(..., F) → (...,)."""
        standard = ((features - self.mean) / self.deviation).clamp(-4, 4)
        return self.layers(standard)[..., 0]


@dataclass(frozen=True)
class Scorer:
    """Judges candidates.

    Attributes:
        quality: features → logit of the expected Dice, given that the object is there.
        presence: features of the best candidate, and of all in the mean → logit of the object being there. It is linear: networks
            learnt the episodes better, and other things worse.
        calibrations: presence scores of episodes that the scorer had not learnt from, by the least number of examples of each group.
        sam: signature of the SAM whose answers it learnt from.
    """

    quality: ScorerNet
    presence: ScorerNet
    calibrations: dict[int, Calibration]
    sam: str

    @torch.inference_mode()
    def judge(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K, F) → the best candidate of each image (B,), its expected Dice (B,), and the presence score (B,); both in 0..1."""
        device, features = features.device, features.cpu()  # A few numbers, on whatever device SAM is.
        quality = self.quality(features)
        score = self.presence(seen_of(features, quality)).sigmoid()
        return quality.argmax(1).to(device), quality.amax(1).sigmoid().to(device), score.to(device)

    def calibration(self, examples: int) -> Calibration:
        """Of episodes with about so many examples."""
        return self.calibrations[max(least for least in self.calibrations if least <= max(1, examples))]

    def save(self, path: Path) -> None:
        """Write it as JSON, by rename."""
        write_atomic(path, self._content())

    def _content(self) -> str:
        state = {name: _listed(getattr(self, name)) for name in ("quality", "presence")}
        known = {str(least): calibration.as_dict() for least, calibration in self.calibrations.items()}
        content = {"format": FORMAT, "features": list(FEATURES), "sam": self.sam, **state, "calibrations": known}
        return json.dumps(content) + "\n"

    def digest(self) -> str:
        """Hexadecimal digits that change with it."""
        return hashlib.sha256(self._content().encode()).hexdigest()

    @staticmethod
    def load(path: Path = BUNDLED) -> Scorer:
        """Read what :meth:`save` wrote. Raises WeightsError for a file that is not there, damaged, or of other features."""
        try:
            content = json.loads(path.read_text("utf-8"))
            if content["format"] != FORMAT or content["features"] != list(FEATURES):
                raise ValueError("is of another version")
            quality, presence = ScorerNet(len(FEATURES)), ScorerNet(2 * len(FEATURES) + 1, 0)
            for net, state in ((quality, content["quality"]), (presence, content["presence"])):
                net.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
                net.eval().requires_grad_(False)
            known = {int(least): Calibration.of_dict(one) for least, one in content["calibrations"].items()}
            if 1 not in known:
                raise ValueError("has no calibration for one example")
            return Scorer(quality, presence, known, content["sam"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            remedy = "make it again with tools/train_find_scorer.py"
            raise WeightsError(f"{path}: cannot be read as a scorer ({error}); {remedy}") from None


def seen_of(features: Tensor, quality: Tensor) -> Tensor:
    """What tells of the object's presence: (B, 2 F + 1), features of the best candidate and of all in the mean, and the best quality."""
    best = quality.argmax(1)
    rows = torch.arange(len(features), device=features.device)
    weights = F.softmax(quality, 1)[..., None]
    return torch.cat([features[rows, best], (features * weights).sum(1), quality.amax(1, keepdim=True)], 1)


def _listed(net: nn.Module) -> dict[str, Any]:
    return {name: _rounded(value.tolist()) for name, value in net.state_dict().items()}


def _rounded(value: Any) -> Any:
    return [_rounded(one) for one in value] if isinstance(value, list) else float(f"{value:.6g}")
