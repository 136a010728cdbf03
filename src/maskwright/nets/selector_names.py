"""Names of the ways to choose references. Apart from ``nets.selector``, so that the help of a command does not wait for PyTorch."""

from typing import Literal

Heuristic = Literal["random", "similar", "similar-foreground", "diverse"]
"""Selectors that need no training."""

SelectorName = Literal[Heuristic, "policy"]
"""Selectors that a model can be trained with."""

EvaluatedSelector = Literal[Heuristic, "policy", "oracle"]
"""Selectors that can be compared. ``policy`` is SPNet; ``oracle`` (``methods.in_context.judging.oracle``) uses the true masks and is for
evaluation only."""
