"""A damaged file is written anew only where every pixel is the one that was there: any bit flipped, any cut."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.images import read_image
from maskwright.data.salvage import is_whole, salvaged


def pixels(content: bytes, path: Path) -> np.ndarray:
    path.write_bytes(content)
    return read_image(path)


def encoded(kind: str, mode: str, side: int = 12, **options: object) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 4), np.uint8)
    values[..., 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(values).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA", "LA", "I;16"])
def test_any_bit_of_a_png(mode: str, tmp_path: Path) -> None:
    content = encoded("PNG", mode)
    right = pixels(content, tmp_path / "right.png")
    damaged, given_back = tmp_path / "damaged.png", 0
    for bit in range(0, 8 * len(content), 3):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(flipped)
        if (anew := salvaged(damaged)) is not None:
            given_back += 1
            np.testing.assert_array_equal(pixels(anew, tmp_path / "anew.png"), right)
    assert given_back > 9, "such as those in the checksums of the pixels' parts"


@pytest.mark.parametrize("progressive", [False, True])
def test_any_cut_of_a_jpeg(progressive: bool, tmp_path: Path) -> None:
    content = encoded("JPEG", "RGB", 40, quality=90, progressive=progressive)
    right = pixels(content, tmp_path / "right.jpg")
    damaged, given_back = tmp_path / "damaged.jpg", 0
    for length in (*range(20, len(content) - 40, 31), *range(len(content) - 40, len(content))):
        damaged.write_bytes(content[:length])
        if (anew := salvaged(damaged)) is not None:
            given_back += 1
            np.testing.assert_array_equal(pixels(anew, tmp_path / "anew.jpg"), right)
    damaged.write_bytes(content[:-2])
    assert is_whole(damaged) != progressive, "only the end marker is missing; but a pass that is missing would not show"
    assert bool(given_back) != progressive


def test_what_is_no_such_file(tmp_path: Path) -> None:
    assert not is_whole(tmp_path / "absent.png")
    assert not is_whole(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "other.png").write_bytes(b"GIF89a")
    assert not is_whole(tmp_path / "empty.png")
    assert not is_whole(tmp_path / "other.png")
