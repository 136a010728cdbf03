"""Segmentation models from whatever labels there are, on SAM 2."""
