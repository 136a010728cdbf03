"""From evidence to a probability: which kind of error, if any, is in a mask. A multinomial logistic regression on planted errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from maskwright.methods.curate.planted_errors import ERROR_KINDS

SOUND = 0
"""The class of masks without an error; errors follow in the order of ``ERROR_KINDS``."""

_PENALTY = 5e-4
"""On the squares of the weights."""

_STEPS = np.linspace(0, 1, 201)
"""Quantiles that a number is ranked by."""

_CERTAIN = 0.9
"""Up to here probabilities are what they come to; beyond they approach 1, and keep their order."""


@dataclass(frozen=True)
class Suspicion:
    """The classifier.

    Attributes:
        quantiles: (201, F) of the numbers that were learnt from. A number counts by its rank among them and by where it lies between
            their ends; on salient objects ranks won a point or two of average precision.
        weights: (3F + 1, 1 + kinds): of ranks, squares of ranks, and places.
        prior: (1 + kinds,) how much likelier each class is in the user's masks than in what was learnt from, as a logarithm.
    """

    quantiles: NDArray[np.float64]
    weights: NDArray[np.float64]
    prior: NDArray[np.float64]

    def probabilities(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, F) evidence → (N, 1 + kinds).

        What was learnt as sound are the user's masks as they are, with the errors that nobody knows of. So the odds between an error
        and those masks, times how often errors are expected, is the probability itself, not odds against sound masks (as in learning
        from positive and unlabelled examples; Elkan and Noto, KDD 2008).
        """
        scores = _inputs(values, self.quantiles) @ self.weights + self.prior
        odds = np.exp(np.minimum(scores[:, 1:] - scores[:, :1], 50.0))
        total = odds.sum(1, keepdims=True)
        wrong = np.where(total < _CERTAIN, total, 1 - (1 - _CERTAIN) * _CERTAIN / total)
        return np.concatenate([1 - wrong, odds / total * wrong], 1)


def learn(values: NDArray[np.floating], classes: NDArray[np.int64], share: float) -> Suspicion:
    """Learn from masks of which some were spoiled.

    Args:
        values: (N, F) evidence.
        classes: (N,) ``SOUND`` or 1 + the place in ``ERROR_KINDS``. What counts as sound may hold a few true errors: nobody knows
            them.
        share: 0..1 of the user's masks that is expected to be wrong; it sets the level of the probabilities, not their order.
    """
    quantiles = np.quantile(values.astype(np.float64), _STEPS, axis=0)
    inputs = torch.from_numpy(_inputs(values, quantiles))
    truth = torch.from_numpy(classes)
    count = 1 + len(ERROR_KINDS)
    weights = torch.zeros(inputs.shape[1], count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(inputs @ weights, truth) + _PENALTY * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    there = np.bincount(classes, minlength=count).astype(np.float64)
    errors = max(1.0, float(there[1:].sum()))
    prior = np.full(count, np.log(share / (errors / len(classes))) if errors else 0.0)
    prior[SOUND] = -np.log(max(1e-6, there[SOUND] / len(classes)))
    return Suspicion(quantiles, weights.detach().numpy(), prior)


def _inputs(values: NDArray[np.floating], quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks of (N, F) numbers, their squares, their places between the ends, and a one: (N, 3F + 1). Equal numbers have one rank."""
    columns = [
        (np.searchsorted(steps, column, "left") + np.searchsorted(steps, column, "right")) / (2 * len(steps))
        for steps, column in zip(quantiles.T, values.astype(np.float64).T, strict=True)
    ]
    ranks = np.stack(columns, 1)
    low, high = quantiles[4], quantiles[-5]
    places = np.clip((values - low) / np.maximum(high - low, 1e-6), -0.5, 1.5)
    return np.concatenate([ranks, ranks**2, places, np.ones((len(ranks), 1))], 1)
