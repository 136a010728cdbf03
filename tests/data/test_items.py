"""Items: images and masks are decoded, and what cannot be used is named."""

from __future__ import annotations

import numpy as np
import pytest

from maskwright.data.items import read_item
from maskwright.data.labels import Kind, Labels, Mask, Sample
from maskwright.errors import DataError


def test_a_limit_reduces_the_pixels_and_leaves_the_coordinates(mixed):
    whole, reduced = (read_item(mixed, mixed[1], limit) for limit in (None, 16))
    assert (whole.image.shape, reduced.image.shape) == ((32, 64, 3), (8, 16, 3))
    assert whole.size == reduced.size == (64, 32)
    np.testing.assert_array_equal(whole.boxes, reduced.boxes)
    assert reduced.kind == Kind.BOX


def test_instance_ids_become_categories(mixed):
    mask = read_item(mixed, mixed[4]).mask
    assert mask is not None
    assert mask[::10, 0].tolist() == [2, 1, 1, 0], "300 is named in the table; 7 and 255, here an id, are not"


def test_unusable_files_are_named(mixed):
    def problem(sample: Sample) -> str:
        with pytest.raises(DataError) as caught:
            read_item(mixed, sample)
        return str(caught.value)

    assert "4x4" in problem(Sample("x", "0.png", size=(4, 4)))
    assert "m0.png" in problem(Sample("x", "1.png", labels=Labels(mask=Mask("m0.png"))))
    assert "nowhere.png" in problem(Sample("x", "nowhere.png"))
    text = problem(Sample("x", "4.png", labels=Labels(mask=Mask("m4.png"))))
    assert "7, 300" in text
    assert "m4.png" in text
    assert "category 9" in problem(Sample("x", "4.png", labels=Labels(mask=Mask("m4.png", "instance", {7: 9}))))
