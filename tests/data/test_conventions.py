"""Which way a mask says "here is the object", whatever has softened its edges; and what cannot be told is left untold."""

import io

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from maskwright.data.conventions import Convention, convention_of, to_object

SOFTENERS = {
    "jpeg 95": lambda picture: jpeg(picture, 95),
    "jpeg 60": lambda picture: jpeg(picture, 60),
    "blur": lambda picture: np.array(picture.filter(ImageFilter.GaussianBlur(1))),
    "resized": lambda picture: np.array(picture.resize((64, 48), Image.Resampling.BILINEAR)),
}


def jpeg(picture: Image.Image, quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def ellipses(seed: int, white: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    picture = Image.new("L", (128, 96))
    for _ in range(rng.integers(1, 4)):
        x, y, width, height = (int(v) for v in rng.integers([0, 0, 10, 10], [90, 60, 36, 36]))
        ImageDraw.Draw(picture).ellipse((x, y, x + width, y + height), fill=white)
    return picture


@pytest.mark.parametrize(
    ("values", "name", "white"),
    [
        ([0], "empty", 0),
        ([0, 1], "0/1", 1),
        ([1], "0/1", 1),
        ([0, 255], "0/255", 255),
        ([0, 127], "0/127", 127),
        ([0, 128], "0/128", 128),
        ([0, 65535], "0/65535", 65535),
        ([0, 38], "ids", 0),
        ([0, 1, 255], "ids", 0),
        ([0, 1, 2, 3], "ids", 0),
        ([0, 127, 255], "ids", 0),
    ],
)
def test_masks_of_few_values(values: list[int], name: str, white: int) -> None:
    pixels = np.repeat(np.array(values, np.uint16), 50).reshape(5, -1)
    assert convention_of(pixels) == Convention(name, white)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(sorted(SOFTENERS)), st.sampled_from([128, 255]))
def test_soft_edges_are_cut_where_they_were(seed: int, softener: str, white: int) -> None:
    picture = ellipses(seed, white)
    values = SOFTENERS[softener](picture)
    convention = convention_of(values)
    assert (convention.name, convention.white) == ("grey", white)
    mask, moved = to_object(values, convention)
    assert moved == np.isin(values, [0, white], invert=True).sum()
    if values.shape == (96, 128):
        outline = np.array(picture) > 0
        assert (mask != outline).sum() <= max(8, 0.02 * outline.sum())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_a_second_level_is_not_taken_for_an_edge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = SOFTENERS["resized"](ellipses(seed, 255)).copy()
    # Of an object of three pixels nobody could say whether it is one, or a speck beside the grey one.
    assume((values >= 192).sum() >= 100)
    x, y = rng.integers(0, 40, 2)
    values[y : y + 8, x : x + 12] = rng.integers(100, 160)
    assert convention_of(values).name == "ids"


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(3, 250))
def test_instance_ids_are_not_taken_for_greys(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.zeros((96, 128), np.uint8)
    for id in range(1, count + 1):
        x, y = rng.integers(0, 120), rng.integers(0, 88)
        values[y : y + 6, x : x + 6] = id
    assert convention_of(values).name == "ids"


def test_ids_have_no_threshold() -> None:
    with pytest.raises(ValueError, match="threshold"):
        to_object(np.zeros((2, 2), np.uint8), Convention("ids"))
