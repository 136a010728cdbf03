"""The embedding store: what is read is what was written, nothing stale or damaged is ever used."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from maskwright.errors import DataError, WeightsError
from maskwright.sam.store import LEVELS, EmbeddingStore, Signature, weights_signature

SIGNATURE = Signature(weights="a" * 64, preprocessing=1, size=32)


def embedding(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 8, 8), (4, 4, 4), (8, 2, 2))
    return {level: torch.randn(shape, generator=generator) for level, shape in zip(LEVELS, shapes)}


def entry_file(store: EmbeddingStore, key: str) -> Path:
    (path,) = store.folder.glob(f"*/{key}.safetensors")
    return path


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_reads_what_was_written_in_any_order(tmp_path: Path, memory_bytes: int):
    writer = EmbeddingStore(tmp_path, SIGNATURE)
    keys = [writer.key(bytes([i])) for i in range(3)]
    assert writer.missing([*keys, keys[0]]) == keys  # each once, in order
    for i, key in enumerate(keys):
        writer.save(key, embedding(i))
    reader = EmbeddingStore(tmp_path, SIGNATURE, memory_bytes=memory_bytes)
    assert reader.missing(keys) == []
    for _ in range(2):
        batch = reader.load([keys[2], keys[0], keys[2]])
        for level in LEVELS:
            expected = torch.stack([embedding(2)[level], embedding(0)[level], embedding(2)[level]])
            torch.testing.assert_close(batch[level], expected, rtol=0, atol=0)
            batch[level].zero_()  # a copy: the second round must read the same


def test_float16_halves_the_bytes_and_rounds_once(tmp_path: Path):
    single = EmbeddingStore(tmp_path / "32", SIGNATURE)
    half = EmbeddingStore(tmp_path / "16", replace(SIGNATURE, dtype="float16"))
    sizes = []
    for store in (single, half):
        key = store.key(b"image")
        store.save(key, embedding())
        sizes.append(sum(tensor.nbytes for tensor in store.load([key]).values()))
    assert sizes[1] * 2 == sizes[0]
    low = EmbeddingStore(half.folder, half.signature).load([half.key(b"image")])["low"]
    torch.testing.assert_close(low[0], embedding()["low"].half(), rtol=0, atol=0)


def test_overflow_in_float16_is_refused(tmp_path: Path):
    store = EmbeddingStore(tmp_path, replace(SIGNATURE, dtype="float16"))
    key = store.key(b"image")
    with pytest.raises(WeightsError, match=r"high1 not finite as float16; use float32"):
        store.save(key, embedding() | {"high1": torch.full((4, 4, 4), 1e6)})
    assert store.missing([key]) == [key]


def test_other_levels_or_shapes_are_a_bug(tmp_path: Path):
    store = EmbeddingStore(tmp_path, SIGNATURE)
    with pytest.raises(ValueError, match="each"):
        store.save(store.key(b""), {"low": torch.zeros(8, 2, 2)})
    with pytest.raises(ValueError, match="each"):
        store.save(store.key(b""), {level: torch.zeros(1, 8, 2, 2) for level in LEVELS})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(st.binary(max_size=8), min_size=2, max_size=2, unique=True),
    other=st.sampled_from([{"weights": "b" * 64}, {"preprocessing": 2}, {"size": 64}, {"dtype": "float16"}]),
)
def test_key_changes_with_every_ingredient(tmp_path_factory, contents: list[bytes], other: dict):
    store = EmbeddingStore(tmp_path_factory.mktemp("a"), SIGNATURE)
    changed = EmbeddingStore(tmp_path_factory.mktemp("b"), replace(SIGNATURE, **other))
    keys = {s.key(content) for s in (store, changed) for content in contents}
    assert len(keys) == 4
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


def test_key_of_a_file_is_that_of_its_bytes_and_is_remembered(tmp_path: Path, monkeypatch):
    store = EmbeddingStore(tmp_path / "store", SIGNATURE)
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    hashed = []
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(1) or original(file, name))
    first = store.key(image)
    assert first == store.key(str(image)) == store.key(b"one")
    assert len(hashed) == 1
    image.write_bytes(b"two")
    os.utime(image, ns=(0, 1))  # same size, other time
    assert store.key(image) == store.key(b"two") != first
    with pytest.raises(DataError, match=r"none\.png: cannot be read"):
        store.key(tmp_path / "none.png")


def test_store_of_another_signature_is_refused_with_all_differences(tmp_path: Path):
    store = EmbeddingStore(tmp_path, SIGNATURE)
    key = store.key(b"image")
    store.save(key, embedding())
    other = replace(SIGNATURE, weights="b" * 64, size=64)
    with pytest.raises(WeightsError) as caught:
        EmbeddingStore(tmp_path, other)
    text = str(caught.value)
    assert str(tmp_path) in text
    assert f"weights is {'a' * 64}, now {'b' * 64}" in text
    assert "size is 32, now 64" in text
    assert "dtype" not in text
    assert "--overwrite" in text
    assert EmbeddingStore(tmp_path, SIGNATURE).missing([key]) == []  # refused means untouched


def test_overwrite_empties_a_store_of_another_signature_only(tmp_path: Path):
    store = EmbeddingStore(tmp_path, SIGNATURE)
    key = store.key(b"image")
    store.save(key, embedding())
    assert EmbeddingStore(tmp_path, SIGNATURE, overwrite=True).missing([key]) == []
    other = EmbeddingStore(tmp_path, replace(SIGNATURE, size=64), overwrite=True)
    assert list(tmp_path.rglob("*.safetensors")) == []
    assert other.missing([other.key(b"image")]) == [other.key(b"image")]
    with pytest.raises(WeightsError, match="size is 64, now 32"):
        EmbeddingStore(tmp_path, SIGNATURE)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weights": "a"}', '{"version": 9}'])
def test_damaged_signature_is_refused(tmp_path: Path, text: str):
    EmbeddingStore(tmp_path, SIGNATURE)
    (tmp_path / "signature.json").write_text(text)
    with pytest.raises(WeightsError, match=r"signature\.json is damaged or of another version"):
        EmbeddingStore(tmp_path, SIGNATURE)
    EmbeddingStore(tmp_path, SIGNATURE, overwrite=True)
    EmbeddingStore(tmp_path, SIGNATURE)


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folders_and_files_are_left_alone(tmp_path: Path, overwrite: bool):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(WeightsError, match="holds something else"):
        EmbeddingStore(tmp_path, SIGNATURE, overwrite=overwrite)
    for folder in (tmp_path / "thesis.tex", tmp_path / "thesis.tex" / "store"):
        with pytest.raises(WeightsError, match="is not a folder"):
            EmbeddingStore(folder, SIGNATURE, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_unknown_dtype_is_refused():
    with pytest.raises(WeightsError, match="'bfloat16'; choose float32 or float16"):
        Signature("a", 1, 32, "bfloat16")


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_entry_counts_as_missing_and_is_replaced(tmp_path: Path, caplog, kept: int):
    writer = EmbeddingStore(tmp_path, SIGNATURE)
    keys = [writer.key(b"whole"), writer.key(b"cut")]
    for key in keys:
        writer.save(key, embedding())
    path = entry_file(writer, keys[1])
    path.write_bytes(path.read_bytes()[:kept])
    store = EmbeddingStore(tmp_path, SIGNATURE)
    with caplog.at_level(logging.WARNING):
        assert store.missing(keys) == [keys[1]]
    assert f"{path}: damaged" in caplog.text
    with pytest.raises(WeightsError, match=keys[1]) as caught:
        store.load(keys)
    assert keys[0] not in str(caught.value)
    store.save(keys[1], embedding(1))
    torch.testing.assert_close(EmbeddingStore(tmp_path, SIGNATURE).load(keys)["low"][1], embedding(1)["low"])


@pytest.mark.parametrize("tensors", [{"low": torch.zeros(1)}, {level: torch.zeros(1).half() for level in LEVELS}])
def test_entry_with_other_content_counts_as_missing(tmp_path: Path, caplog, tensors: dict):
    store = EmbeddingStore(tmp_path, SIGNATURE, memory_bytes=0)
    key = store.key(b"image")
    store.save(key, embedding())
    save_file(tensors, entry_file(store, key))
    assert store.missing([key]) == [key]
    assert "damaged (holds" in caplog.text


def test_memory_is_bounded_and_keeps_the_latest(tmp_path: Path):
    size = sum(tensor.nbytes for tensor in embedding().values())
    store = EmbeddingStore(tmp_path, SIGNATURE, memory_bytes=2 * size)
    keys = [store.key(bytes([i])) for i in range(3)]
    for key in keys[:2]:
        store.save(key, embedding())
    store.save(keys[0], embedding())  # saved again: counted once
    store.load([keys[0]])
    store.save(keys[2], embedding())
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    assert store.missing(keys) == [keys[1]]  # the one not used for longest


def fill(folder: Path, seed: int, barrier) -> None:
    torch.set_num_threads(1)
    barrier.wait()
    store = EmbeddingStore(folder, SIGNATURE)
    for i in range(60):
        store.save(store.key(bytes([i % 6])), embedding(i % 6))
        if i >= 6:
            store.load([store.key(bytes([(i + seed) % 6]))])
    assert store.missing([store.key(bytes([i])) for i in range(6)]) == []


def test_two_processes_write_the_same_keys(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=fill, args=(tmp_path / "store", seed, barrier)) for seed in (0, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    store = EmbeddingStore(tmp_path / "store", SIGNATURE)
    batch = store.load([store.key(bytes([i])) for i in range(6)])
    for level in LEVELS:
        torch.testing.assert_close(batch[level], torch.stack([embedding(i)[level] for i in range(6)]), rtol=0, atol=0)
    names = {path.name.split(".", 1)[1] for path in store.folder.rglob("*") if path.is_file()}
    assert names == {"safetensors", "json"}  # nothing is left aside


def test_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch):
    store = EmbeddingStore(tmp_path, SIGNATURE)
    key = store.key(b"image")
    original = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        original(self, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WeightsError, match=r"the disk is full.*free space"):
        store.save(key, embedding())
    assert store.missing([key]) == [key]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["signature.json"]


def test_signature_of_weights_sees_every_ingredient():
    def module() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))

    same = weights_signature(module())
    assert same == weights_signature(module())
    assert len(same) == 64
    variants = [module() for _ in range(4)]
    with torch.no_grad():
        variants[0][0].weight[0, 0, 0, 0] += 1e-6  # a parameter
    variants[1][1].running_mean += 1e-6  # a persistent buffer
    variants[2][1].num_batches_tracked += 1  # without dimensions
    variants[3].to(torch.bfloat16)
    zeros = [nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False), nn.Module()]
    for linear in zeros[:2]:
        nn.init.zeros_(linear.weight)  # same bytes and name, other shape
    zeros[2].register_parameter("other", nn.Parameter(torch.zeros(2, 4)))
    signatures = [weights_signature(variant) for variant in [*variants, *zeros]]
    assert len({same, weights_signature(module(), "windows 8"), *signatures}) == 9


def test_signature_of_weights_ignores_buffers_that_are_not_saved():
    module = nn.Linear(2, 2)
    before = weights_signature(module)
    module.register_buffer("cache", torch.zeros(3), persistent=False)
    assert weights_signature(module) == before


def test_signature_file_is_readable_json(tmp_path: Path):
    EmbeddingStore(tmp_path, SIGNATURE)
    assert json.loads((tmp_path / "signature.json").read_text()) == {
        "weights": "a" * 64,
        "preprocessing": 1,
        "size": 32,
        "dtype": "float32",
    }


def test_flipped_bits_and_the_entry_of_another_image_are_found_and_made_again(tmp_path: Path, caplog):
    store = EmbeddingStore(tmp_path, SIGNATURE, memory_bytes=0)
    keys = [store.key(bytes([i])) for i in range(4)]
    for number, key in enumerate(keys):
        store.save(key, embedding(number))
    flipped, swapped = entry_file(store, keys[0]), entry_file(store, keys[1])
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    swapped.write_bytes(entry_file(store, keys[2]).read_bytes())
    with pytest.raises(WeightsError, match=keys[0]):
        store.load(keys)
    assert store.missing(keys) == keys[:2]
    assert f"{flipped}: damaged (its checksum is another one)" in caplog.text
    assert "further entries are damaged" in caplog.text
    for number, key in enumerate(keys[:2]):
        store.save(key, embedding(number))
    assert store.missing(keys) == []
    assert torch.equal(store.load(keys)["low"], torch.stack([embedding(number)["low"] for number in range(4)]))


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bit_of_an_entry_changes_what_is_read(tmp_path: Path, data: st.DataObject):
    store = EmbeddingStore(tmp_path, SIGNATURE, memory_bytes=0)
    key = store.key(b"image")
    store.save(key, embedding())
    path = entry_file(store, key)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    if store.missing([key]) == []:
        assert all(torch.equal(value[0], embedding()[level]) for level, value in store.load([key]).items())


def test_entries_of_an_older_version_are_made_again(tmp_path: Path, caplog):
    store = EmbeddingStore(tmp_path, SIGNATURE, memory_bytes=0)
    key = store.key(b"image")
    store.save(key, embedding())
    save_file(embedding(), entry_file(store, key))
    assert store.missing([key]) == [key]
    assert "without a checksum, as an older maskwright wrote it" in caplog.text
