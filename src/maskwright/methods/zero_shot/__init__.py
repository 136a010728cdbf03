"""What a SAM can do without any training, on a dataset with masks: boxes, clicks, and references in context."""

from maskwright.methods.zero_shot.scores import evaluate_sam

__all__ = ["evaluate_sam"]
