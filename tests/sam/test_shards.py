"""Entries in shards: what was written is read, by all, whoever was killed; what was damaged is written again."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import time
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
import torch

from maskwright.errors import WeightsError
from maskwright.sam import shards
from maskwright.sam.shards import Shards
from maskwright.sam.store import EmbeddingStore
from tests.sam.test_store import SIGNATURE, embedding

LINE = 56


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def content(number: int) -> bytes:
    return str(number).encode() * (1 + number % 7)


def first(place: Shards, number: int) -> bytes | None:
    return next((found for _, found in place.get(key(number))), None)


def test_what_was_written_is_read_by_all(tmp_path: Path):
    writer, early = Shards(tmp_path), Shards(tmp_path)
    for number in range(100):
        writer.put(key(number), content(number))
    early.refresh()
    for place in (writer, early, Shards(tmp_path)):
        assert [first(place, number) for number in range(100)] == [content(number) for number in range(100)]
        assert first(place, 100) is None
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".data", ".index", ".lock"]


def test_the_latest_comes_first(tmp_path: Path):
    place = Shards(tmp_path)
    for text in (b"old", b"new"):
        place.put(key(0), text)
    assert next(found for _, found in place.get(key(0))) == b"new"
    place.close()
    assert [found for _, found in Shards(tmp_path).get(key(0))] == [b"new", b"old"]


def test_a_shard_that_is_full_is_followed_by_another(tmp_path: Path):
    place = Shards(tmp_path, shard_bytes=100)
    for number in range(40):
        place.put(key(number), b"x" * 30)
    place.close()
    sizes = [path.stat().st_size for path in tmp_path.glob("*.data")]
    assert sizes == [120] * 10
    assert all(first(Shards(tmp_path), number) == b"x" * 30 for number in range(40))


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path):
    place = Shards(tmp_path)
    keys = [key(0)[:16] + key(number)[16:] for number in range(20)]
    for number, one in enumerate(keys):
        place.put(one, content(number))
    place.close()
    again = Shards(tmp_path)
    assert [next(found for _, found in again.get(one)) for one in keys] == [content(number) for number in range(20)]


@pytest.mark.parametrize("cut", [1, LINE - 1, LINE])
def test_a_kill_loses_one_entry_at_most_and_the_shard_goes_on(tmp_path: Path, cut: int):
    place = Shards(tmp_path)
    for number in range(5):
        place.put(key(number), content(number))
    place.close()
    (index,) = tmp_path.glob("*.index")
    os.truncate(index, 5 * LINE - cut)
    place = Shards(tmp_path)
    assert [first(place, number) for number in range(5)] == [*map(content, range(4)), None]
    for number in (4, 5):
        place.put(key(number), content(number))
    place.close()
    assert len(list(tmp_path.glob("*.data"))) == 1
    assert [first(Shards(tmp_path), number) for number in range(6)] == [*map(content, range(6))]


@pytest.mark.parametrize("place", range(LINE))
def test_no_flipped_bit_of_an_index_leads_elsewhere(tmp_path: Path, place: int):
    entries = Shards(tmp_path)
    for number in range(3):
        entries.put(key(number), content(number))
    entries.close()
    (index,) = tmp_path.glob("*.index")
    damaged = bytearray(index.read_bytes())
    damaged[LINE + place] ^= 1 << place % 8
    index.write_bytes(damaged)
    assert [first(Shards(tmp_path), number) for number in range(3)] == [content(0), None, content(2)]


def _write(folder: str, numbers: range, both) -> None:
    place = Shards(Path(folder))
    place.put(key(numbers[0]), content(numbers[0]))
    both.wait(60)  # Only now: a process that was done before the other began would hand its shard on.
    for number in numbers[1:]:
        place.put(key(number), content(number))


def test_each_process_has_a_shard_of_its_own(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    both = context.Barrier(2)
    processes = [
        context.Process(target=_write, args=(str(tmp_path), part, both)) for part in (range(300), range(200, 450))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(tmp_path.glob("*.data"))) == 2
    place = Shards(tmp_path)
    assert all(first(place, number) == content(number) for number in range(450))


def test_a_store_of_either_kind_holds_the_same(tmp_path: Path):
    stores = [EmbeddingStore(tmp_path / name, SIGNATURE, shards=name == "many") for name in ("each", "many")]
    keys = [key(number) for number in range(4)]
    for store in stores:
        assert store.missing(keys) == keys
        for number, one in enumerate(keys):
            store.save(one, embedding(number))
        store.close()
    one, other = (EmbeddingStore(store.folder, SIGNATURE, memory_bytes=0).load(keys) for store in stores)
    for level, value in one.items():
        assert torch.equal(value, other[level])
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["shards", "signature.json"]
    with pytest.raises(WeightsError, match="leave --shards out"):
        EmbeddingStore(tmp_path / "each", SIGNATURE, shards=True)


def test_what_is_damaged_in_a_shard_is_made_again_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = EmbeddingStore(tmp_path, SIGNATURE, shards=True)
    for number in range(3):
        store.save(key(number), embedding(number))
    store.close()
    (data,) = (tmp_path / "shards").glob("*.data")
    bytes_ = bytearray(data.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    data.write_bytes(bytes_)
    keys = [key(number) for number in range(3)]
    store = EmbeddingStore(tmp_path, SIGNATURE)
    assert store.missing(keys) == [keys[1]]
    assert data.name in caplog.text
    store.save(keys[1], embedding(1))
    store.close()
    assert EmbeddingStore(tmp_path, SIGNATURE).missing(keys) == []


def test_a_store_of_another_signature_is_emptied(tmp_path: Path):
    store = EmbeddingStore(tmp_path, SIGNATURE, shards=True)
    store.save(key(0), embedding())
    store.close()
    other = EmbeddingStore(tmp_path, SIGNATURE.__class__("b" * 64, 1, 32), overwrite=True)
    assert list((tmp_path / "shards").iterdir()) == []
    assert other.missing([key(0)]) == [key(0)]


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = Shards(tmp_path)
    place.put(key(0), content(0))

    write = shards._write_all
    pieces: list[int] = []

    def full(file: FileIO, data: bytes) -> None:
        """There is space for seven more bytes: none for the entry, or in the second round none for its line."""
        pieces.append(len(data))
        if len(pieces) in (1, 3):
            write(file, data[:7])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(shards, "_write_all", full)
    for _ in range(2):
        with pytest.raises(WeightsError, match="the disk is full"):
            place.put(key(1), content(1) * 20)
    assert [first(Shards(tmp_path), number) for number in range(2)] == [content(0), None]
    for number in (1, 2):
        place.put(key(number), content(number))
    assert [first(Shards(tmp_path), number) for number in range(3)] == [content(0), content(1), content(2)]


@pytest.mark.slow
def test_a_hundred_thousand_entries_are_few_files_and_soon_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    count, part = 100_000, b"x" * 1000
    monkeypatch.setattr(shards, "_MOST_OWN", 1 << 14)
    place = Shards(tmp_path, shard_bytes=1 << 24)
    for number in range(count):
        place.put(key(number), part)
    place.close()
    assert len(list(tmp_path.iterdir())) == 3 * -(-count * len(part) // (1 << 24))
    began = time.process_time()
    again = Shards(tmp_path)
    opened = time.process_time() - began
    some = np.random.default_rng(0).integers(0, count, 2000).tolist()
    began = time.process_time()
    assert all(first(again, number) == part for number in some)
    found = (time.process_time() - began) / len(some)
    print(f"{opened:.3f} s to open, {1e6 * found:.0f} microseconds for an entry")
    assert opened < 1
    assert found < 1e-3
