"""The run lengths of Label Studio's brush against a plain translation of the converter's own words, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskwright.data.formats import brush

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def reference_encode(mask: np.ndarray) -> list[int]:
    """Text of zeros and ones, run by run, as the format is described."""
    values = [255 if pixel else 0 for pixel in mask.ravel() for _ in range(4)]
    text, i = f"{len(values):032b}" + "00111" + "0010" + "0011" + "0111" + "1111", 0
    while i < len(values):
        j = i
        while j < len(values) and values[j] == values[i] and j - i < 2**16:
            j += 1
        choice, width = next((k, w) for k, w in enumerate((3, 4, 8, 16)) if j - i <= 2**w)
        text += f"1{choice:02b}{j - i - 1:0{width}b}{values[i]:08b}"
        i = j
    text += "0" * (8 - len(text) % 8)
    return [int(text[k : k + 8], 2) for k in range(0, len(text), 8)]


def reference_decode(code: list[int]) -> list[int]:
    bits, place = "".join(f"{byte:08b}" for byte in code), 0

    def read(width: int) -> int:
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    count, word = read(32), read(5) + 1
    widths, values = [read(4) + 1 for _ in range(4)], []
    while len(values) < count:
        repeated = read(1)
        length = read(widths[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return values


@given(mask=arrays(np.uint8, SIZES, elements=st.integers(0, 1)))
@settings(max_examples=100, deadline=None)
def test_codes_equal_those_of_the_converter(mask: np.ndarray) -> None:
    code = brush.encode(mask)
    assert code == reference_encode(mask)
    np.testing.assert_array_equal(brush.decode(code, mask.shape), mask)


def test_a_code_worked_by_hand() -> None:
    # 2 pixels are 8 values. Words of 8 bits (00111); lengths of 3, 4, 8, 16 bits (0010 0011 0111 1111). Then runs: repeated (1),
    # length of 3 bits (00), 4 less 1 (011), opaque (11111111); and the same with 00000000; seven bits to fill the byte.
    code = [0, 0, 0, 8, 0b00111001, 0b00011011, 0b11111100, 0b01111111, 0b11110001, 0b10000000, 0]
    assert brush.encode(np.array([[1, 0]])) == code
    assert brush.decode(code, (1, 2)).tolist() == [[True, False]]


def test_runs_that_are_longer_than_the_longest_length() -> None:
    mask = np.zeros((300, 300), bool)
    mask[250:, 7:] = True
    code = brush.encode(mask)
    assert code == reference_encode(mask)
    np.testing.assert_array_equal(brush.decode(code, mask.shape), mask)


@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=60), literal=st.lists(st.booleans(), min_size=1))
@settings(max_examples=60, deadline=None)
def test_words_that_follow_one_by_one_are_read(values: list[int], literal: list[bool]) -> None:
    """As Label Studio itself writes them where a brush has soft edges."""
    pixels = [channel for value in values for channel in (value, value, 0, value)]
    text, i, turn = f"{len(pixels):032b}" + "00111" + "0010" + "0011" + "0111" + "1111", 0, 0
    while i < len(pixels):
        length = min(len(pixels) - i, 1 + turn % 8) if literal[turn % len(literal)] else 1
        text += f"0{0:02b}{length - 1:03b}" + "".join(f"{value:08b}" for value in pixels[i : i + length])
        i, turn = i + length, turn + 1
    code = [int(text[k : k + 8].ljust(8, "0"), 2) for k in range(0, len(text), 8)]
    assert reference_decode(code) == pixels
    assert brush.decode(code, (1, len(values))).tolist() == [[value >= 128 for value in values]]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ([], "cut short"),
        ([0, 0, 0, 8], "cut short"),
        (brush.encode(np.eye(3))[:-6], "cut short"),
        (brush.encode(np.eye(4)), "holds 64 values, 3 x 3 pixels have 36"),
        ([256, *brush.encode(np.eye(3))[1:]], "whole numbers from 0 to 255"),
        ([*brush.encode(np.eye(3)), True], "whole numbers from 0 to 255"),
        ([0, 0, 0, 36, 0b01000001, 0b00011011, 0b11111111, 255, 255], "words of 8 bits, this has 9"),
        ([0, 0, 0, 36, 0b00111001, 0b00011011, 0b11111111, 255, 255, 255, 255], "holds more values than it says"),
    ],
)
def test_damaged_codes_are_refused(code: list, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        brush.decode(code, (3, 3))
