"""A SAM as it comes: its answers to boxes, clicks and references on a dataset with masks, beside trivial ones."""

from maskwright.methods.zero_shot.scores import evaluate_sam

__all__ = ["evaluate_sam"]
