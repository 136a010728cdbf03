"""The benchmark of selectors: what it may look at, how it counts, and that it goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from maskwright.data.dataset import Dataset
from maskwright.sam.sam import Sam


@pytest.fixture
def context(script: Callable[[str, str], ModuleType]) -> ModuleType:
    return script("benchmarks", "context")


@pytest.fixture
def bench(script: Callable[[str, str], ModuleType]) -> ModuleType:
    return script("benchmarks", "reference_selectors")


@pytest.fixture
def asked(context: ModuleType, tiny_sam: Sam, scene_folder: Path):
    """The pool's own images as queries, two views of each."""
    full = Dataset.load(scene_folder / "full.json").split("train")
    images = context.encode(tiny_sam, full, "encoding", views=2)
    pool = context.fill(tiny_sam, images, set(range(len(full))))
    return context.Queries(tiny_sam, pool, images, own=True, guess="answer", references=2)


def test_an_image_is_in_the_pool_once_and_never_refers_to_itself(asked):
    images, pool = asked.images, asked.pool.tensors
    assert images.sample[:12].tolist() == list(range(12))
    assert sorted(set(images.sample[12:].tolist())) == list(range(12))
    assert len(set(zip(pool["sample"].tolist(), pool["category"].tolist()))) == len(asked.pool)
    sample = images.sample[asked.rows.image]
    assert not (asked.allowed & (sample[:, None] == pool["sample"])).any()
    assert (asked.allowed.any(1)).all()
    same = asked.rows.category[:, None] == pool["category"]
    assert torch.equal(asked.allowed, same & (sample[:, None] != pool["sample"]))


def test_what_a_query_looks_like_does_not_depend_on_its_truth(asked, context: ModuleType, tiny_sam: Sam):
    images = asked.images
    upside_down = context.Images(images.embedding, images.target.flip(1), images.rows, images.sample, images.ids)
    other = context.Queries(tiny_sam, asked.pool, upside_down, own=True, guess="answer", references=2)
    assert torch.equal(other.query.foreground, asked.query.foreground)
    assert not torch.equal(other.judge().truth, asked.judge().truth)
    whole = context.Queries(tiny_sam, asked.pool, images, own=True, guess="whole", references=2)
    assert torch.equal(whole.query.foreground, whole.query.whole)
    assert torch.equal(whole.query.whole, asked.query.whole)


def test_scores_are_means_over_an_images_categories(asked, monkeypatch: pytest.MonkeyPatch):
    def truth(rows: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = asked.images.maps(asked.at[rows], asked.sam.size)[0]
        # Category 1 is answered perfectly, category 2 not at all.
        return torch.where((asked.rows.category[rows] == 1)[:, None, None], maps * 2 - 1, -1), torch.ones(len(rows))

    monkeypatch.setattr(asked, "answer", truth)
    scores = asked.scores(torch.zeros(len(asked), 1, dtype=torch.long))
    categories: dict[str, list[int]] = {}
    for image, category in zip(asked.rows.image.tolist(), asked.rows.category.tolist()):
        categories.setdefault(asked.images.ids[image], []).append(category)
    assert scores.keys() == categories.keys()
    for name, there in categories.items():
        assert scores[name] == pytest.approx(there.count(1) / len(there), abs=2e-2)


def test_ignored_pixels_do_not_count(asked, context: ModuleType):
    images = asked.images
    target = images.target.clone()
    target[:, :, ::2] = 255
    hidden = context.Images(images.embedding, target, images.rows, images.sample, images.ids)
    at = torch.arange(2)
    known = hidden.maps(at, 64)[1]
    assert (known == (target[images.rows.image[at]] != 255)).all()
    coarse, share = hidden.maps(at, 16)
    assert (share == 0.5).all()
    assert 0 <= float(coarse.min()) <= float(coarse.max()) <= 1


def test_figures_by_hand(bench: ModuleType):
    def one(val: float, a: float, b: float) -> dict:
        return {"val": {"v": val}, "test": {"a": a, "b": b}}

    cells = {
        ("random", 4, 0): one(0.2, 0.9, 0.9),  # best on test, but val decides
        ("similar", 4, 0): one(0.5, 0.4, 0.6),
        ("similar", 4, 1): one(0.5, 0.6, 0.6),
        ("policy", 4, 0): one(0.1, 0.6, 0.7),
        ("policy", 4, 1): one(0.1, 0.6, 0.7),
        ("oracle", 4, 0): {"test": {"a": 0.7, "b": 0.8}},
        ("random", 1, 0): one(1.0, 1.0, 1.0),
    }
    figures = bench.summarise(cells, 4)
    assert figures["best_heuristic"] == "similar"
    assert figures["similar"]["dice"] == pytest.approx(0.55)
    assert figures["similar"]["seeds"] == pytest.approx([0.5, 0.6])
    assert figures["policy"]["over_best_heuristic"] == pytest.approx((0.1, 0.1, 0.1))
    assert figures["head_room"] == pytest.approx(0.2)
    assert figures["head_room_captured"] == pytest.approx(0.5)


def test_the_whole_benchmark_goes_on_where_it_stopped(
    bench: ModuleType, scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = bench.Config(
        data=str(scene_folder),
        out=tmp_path / "cells",
        sam=str(tiny_sam_folder),
        references=(1, 2),
        pool_masks=6,
        more_queries=2,
        queries=3,
        views=2,
        steps=2,
        batch=2,
        groups=3,
        looks=3,
        json=tmp_path / "figures.json",
    )
    bench.main(config)
    figures = json.loads((tmp_path / "figures.json").read_text())["references"]
    assert figures["1"].keys() >= {"random", "diverse", "policy", "oracle", "head_room", "best_heuristic"}
    assert len(figures["2"]["policy"]["over_best_heuristic"]) == 3
    assert len(list((tmp_path / "cells").glob("*-t*-s0.json"))) == 12
    record = json.loads((tmp_path / "cells" / "policy-t1-s0.json").read_text())
    assert record["steps"] == 2
    assert len(record["curve"]) == 3
    # Eight images to learn on, of which six are in the pool.
    members, kept = bench.Bench(config).members(0)
    assert (len(members), len(kept)) == (8, 6)
    assert record["variants"].keys() == {"policy, looking", "policy, unseen", "policy, untrained"}
    assert figures["1"].keys() >= record["variants"].keys()
    # Whether the policy looks is decided on val.
    looking, unseen = (record["variants"][f"policy, {way}"] for way in ("looking", "unseen"))
    val = [sum(scores["val"].values()) for scores in (looking, unseen)]
    assert record["looks"] == (val[0] > val[1])
    assert record["test"] == (looking if record["looks"] else unseen)["test"]

    (tmp_path / "cells" / "similar-t2-s0.json").unlink()
    made: list[tuple[str, int]] = []
    original = bench.cell
    monkeypatch.setattr(bench, "cell", lambda c, b, name, t, s: made.append((name, t)) or original(c, b, name, t, s))
    (tmp_path / "figures.json").unlink()
    bench.main(config)
    assert made == [("similar", 2)]
    again = json.loads((tmp_path / "figures.json").read_text())["references"]
    assert again == figures

    # An oracle without time answers one image.
    (tmp_path / "cells" / "oracle-t1-s0.json").unlink()
    config.row_minutes = 0.0
    one = original(config, bench.Bench(config), "oracle", 1, 0)
    assert len(one["test"]) == 1
    config.row_minutes = 4.0

    config.kl = 0.5
    with pytest.raises(SystemExit, match="other kl"):
        bench.main(config)


def test_the_adapted_sam_of_a_run(context: ModuleType, tmp_path: Path, tiny_sam_folder: Path, tiny_sam: Sam):
    from maskwright.engine.run import Run
    from maskwright.sam.adapter import adapter_state, add_adapters

    add_adapters(tiny_sam)
    with torch.no_grad():
        for tensor in adapter_state(tiny_sam).values():
            tensor.add_(1.0)
    run = Run.create(tmp_path / "run", {"sam": str(tiny_sam_folder), "size": 64}, resume=False)
    with pytest.raises(SystemExit, match="no adapted SAM"):
        (tmp_path / "run" / "last").mkdir(exist_ok=True) or context.load_adapted(str(tmp_path / "run"), None)
    run.save_checkpoint(1, {"sam": tiny_sam.state_dict()}, {})
    run.close()
    loaded = context.load_adapted(str(tmp_path / "run"), None)
    for name, tensor in tiny_sam.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
