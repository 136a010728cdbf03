"""The benchmarks that take times, at their smallest: each way is timed, and ways that must agree do."""

from __future__ import annotations

from pathlib import Path

import pytest

SMALLEST = {"repeats": 1, "threads": 1}


def test_data_check(benchmark, figures_of, monkeypatch) -> None:
    bench = benchmark("data_check")
    monkeypatch.setenv("MASKWRIGHT_CACHE", "")  # The program sets it; what comes after must not see it.
    figures, told = figures_of(bench, images=3, **SMALLEST)
    assert {name: sorted(times) for name, times in figures["seconds"].items()} == {
        "folders": ["again", "first"],
        "coco": ["again", "first"],
    }
    assert "Check of 3 images of 352 x 288" in told


def test_encode_once(benchmark, figures_of, tiny_sam_folder: Path) -> None:
    bench = benchmark("encode_once")
    figures, told = figures_of(bench, sam=str(tiny_sam_folder), images=2, clicks=2, **SMALLEST)
    assert figures["settings"]["size"] == 64
    seconds = figures["seconds_per_image"]
    assert list(seconds["clicks"]) == ["encode again at every click", "encode once"]
    assert list(seconds["embeddings"]) == ["read the file and encode", "store, from disk", "store, kept in memory"]
    assert all(value > 0 for part in seconds.values() for value in part.values())
    assert figures["store_mib"] > 0
    assert "Encode once: 2 images, 64 pixels" in told


def test_encode_once_fails_where_the_ways_disagree(benchmark, tiny_sam_folder: Path, monkeypatch) -> None:
    bench = benchmark("encode_once")
    loop = bench.click_loop
    monkeypatch.setattr(
        bench, "click_loop", lambda *a, again: [logits + 1e-3 * again for logits in loop(*a, again=again)]
    )
    with pytest.raises(SystemExit, match="give other masks"):
        bench.main(bench.Config(sam=str(tiny_sam_folder), images=2, clicks=2, **SMALLEST))


def test_in_context_training(benchmark, figures_of, tiny_sam_folder: Path) -> None:
    bench = benchmark("in_context")
    figures, told = figures_of(bench, sam=str(tiny_sam_folder), batch=3, references=2, **SMALLEST)
    assert list(figures["ways"]) == ["one by one", "batched", "encoded once"]
    for way in figures["ways"].values():
        assert way["gradient_difference"] <= bench.TOLERANCE
        assert way["images_per_second"] == pytest.approx(3 / way["seconds"])
    assert "3 queries with 2 references, 64 pixels" in told


def test_in_context_training_fails_where_gradients_disagree(benchmark, tiny_sam_folder: Path, monkeypatch) -> None:
    bench = benchmark("in_context")

    def wrong(step) -> None:
        step.batched()
        for parameter in step.sam.parameters():
            if parameter.grad is not None:
                parameter.grad *= 1.01

    monkeypatch.setitem(bench.WAYS, "batched", wrong)
    with pytest.raises(SystemExit, match="gradients differ by"):
        bench.main(bench.Config(sam=str(tiny_sam_folder), batch=3, references=2, **SMALLEST))
    with pytest.raises(SystemExit, match="smaller than --batch"):
        bench.Config(batch=2, references=2)


def test_distillation_cost(benchmark, figures_of, tiny_sam_folder: Path) -> None:
    bench = benchmark("distillation_cost")
    settings = {"sam_size": 64, "size": 64, "images": 2, "points": 4}
    figures, told = figures_of(bench, sam=str(tiny_sam_folder), **settings, **SMALLEST)
    assert tuple(figures["rows"]) == bench.ROWS
    assert all(row["seconds"] >= 0 and row["peak_mib"] > 0 for row in figures["rows"].values())
    assert "similarities, batched" in told


def test_selection_cost(benchmark, figures_of, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = benchmark("selection_cost")
    monkeypatch.setattr(bench, "in_own_process", lambda call, *given: call(*given))
    monkeypatch.setattr(bench.pools, "LARGE", 30)
    sizes = {"entries": (20, 40), "channels": 16, "references": 3, "shortlist": 8}
    figures, told = figures_of(bench, **sizes, **SMALLEST)
    assert tuple(figures["selectors"]) == bench.SELECTORS
    for cells in figures["selectors"].values():
        assert [cell["entries"] for cell in cells.values()] == [20, 40]
        assert all(cell["seconds"] > 0 for cell in cells.values())
    policy = figures["selectors"]["policy"]
    assert "found" not in policy["20"]
    assert policy["40"]["found"] == 1
    assert "Choosing 3 references for one query" in told


def test_every_selector_of_the_cost_chooses_different_references(benchmark, tmp_path: Path) -> None:
    bench = benchmark("selection_cost")
    config = bench.Config(channels=16, references=3, shortlist=8)
    vectors = bench.vectors_of(config)
    pool = bench.make_pool(vectors, 20, str(tmp_path))
    for name in bench.SELECTORS:
        _, choose = bench.chooser(name, config, pool, vectors)
        chosen = choose()
        assert chosen.shape == (1, 3)
        assert chosen.unique().numel() == 3


def test_a_rehearsal_of_the_gpu_on_a_cpu(benchmark, figures_of, tiny_sam_folder: Path) -> None:
    bench = benchmark("gpu")
    smallest = {**SMALLEST, "device": "cpu", "size": 64, "batch": 4, "environments": 2, "clicks": 2, "ways": ("eager",)}
    figures, told = figures_of(bench, sam=str(tiny_sam_folder), **smallest)
    found = {(row["work"], row["precision"]): row for row in figures["rows"]}
    works, precisions = ("warm-up", "fit", "predict", "clicks"), ("float32", "bf16")
    assert found.keys() == {(work, precision) for work in works for precision in precisions}
    for row in found.values():
        assert row["per_second"] > 0
        assert row["operations"] > 0
        assert 0 < row["least_seconds"] < 60
    assert "On cpu" in told


@pytest.mark.slow
def test_onnx_speed(benchmark, figures_of, tiny_lite_sam_folder: Path, monkeypatch) -> None:
    bench = benchmark("onnx_speed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    figures, told = figures_of(bench, sam=str(tiny_lite_sam_folder), width=90, height=70, **SMALLEST)
    assert list(figures["seconds"]) == [
        "SAM: encode",
        "SAM: a click",
        "masks of categories",
        "objects",
        "a process of `predict`",
    ]
    assert all(value > 0 for by in figures["seconds"].values() for value in by.values())
    assert "an image of 90 x 70, canvas 64" in told
