"""What a label is, and how labels and images are stored, checked, read and written."""

from maskwright.data.labels import IGNORE, Box, Dataset, Kind, Labels, Mask, Point, Sample, Scribble, Tag

__all__ = ["IGNORE", "Box", "Dataset", "Kind", "Labels", "Mask", "Point", "Sample", "Scribble", "Tag"]
