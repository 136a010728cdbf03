"""What formats cannot hold, where all of them are alike."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.formats import convert, loss
from maskwright.data.labels import Box, Labels, Sample
from maskwright.errors import DataError


@pytest.mark.parametrize("format", ["coco", "cvat", "label-studio", "labelme", "voc", "yolo"])
def test_where_crops_cut_objects_is_lost_only_on_request(tmp_path: Path, format: str) -> None:
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    boxes = Box(0, 2, 8, 9, 1, "x"), Box(3, 2, 8, 9, 1), Box(0, 0, 8, 9, 1, "xy")
    dataset = Dataset(tmp_path, ("background", "thing"), (Sample("a", "a.png", "train", Labels(boxes=boxes)),))
    with pytest.raises(DataError, match="where crops cut the objects of 2 boxes"):
        convert(dataset, tmp_path / "no", format)
    again = Dataset.load(convert(dataset, tmp_path / "yes", format, allow_loss=True))
    assert sorted(box.xyxy for box in again[0].labels.boxes) == sorted(box.xyxy for box in boxes)
    assert loss(again, format) == []
    kept = Dataset.load(convert(dataset, tmp_path / "manifest", "manifest"))
    assert [box.cut for box in kept[0].labels.boxes] == ["x", "", "xy"]
