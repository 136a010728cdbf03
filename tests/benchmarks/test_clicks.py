"""The benchmark of click agents at its smallest: all trainings, all rows, refinement, and going on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskwright.data.dataset import Dataset
from maskwright.data.mask_files import read_mask, write_mask

SMALLEST = {"batch": 3, "tries": 6, "looks": 3, "groups": 2, "rl_share": 0.4, "held_out": 0.25}


@pytest.mark.slow
def test_the_table_refinement_and_going_on(
    benchmark, figures_of, scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    bench, out = benchmark("clicks"), tmp_path / "out"
    monkeypatch.setattr(bench, "RUNS", {name: SMALLEST | changed for name, changed in bench.RUNS.items()})
    masks, dataset = tmp_path / "masks", Dataset.load(scene_folder / "full.json")
    for sample in dataset.split("test"):
        truth = dataset.mask_path(sample)
        assert truth is not None
        write_mask(masks / f"{sample.id}.png", read_mask(truth))
    settings = {
        "data": scene_folder / "full.json",
        "out": out,
        "sam": str(tiny_sam_folder),
        "steps": 6,
        "clicks": 2,
        "seeds": (0,),
        "refine": masks,
    }
    figures, told = figures_of(bench, **settings)
    assert list(figures["rows"]) == list(bench.ROWS)
    assert {path.name for path in out.glob("run-*")} == {
        f"run-{name}-s0" for name in ("full", "reinforced", "imitation", "sb3", "segmenter")
    }
    first = [row["first"] for row in figures["rows"].values()]
    assert first == pytest.approx([first[0]] * len(first))  # the same first click everywhere
    for row in figures["rows"].values():
        assert len(row["dice"]) == 3
        assert row["gain"][0] == pytest.approx(row["dice"][-1] - row["first"], abs=1e-4)
    nothing = figures["rows"]["no further click, SAM"]
    assert nothing["dice"] == pytest.approx([first[0]] * 3)
    assert (nothing["lost"], nothing["clicks"], nothing["sam_calls"]) == (0, 0, 1)
    assert figures["rows"]["oracle, SAM"]["captured"] in (None, 1.0)
    assert len(figures["beginnings"]) == 3
    for found in figures["noc"].values():
        clicks, failures = (list(found[name].values()) for name in ("clicks", "failures"))
        assert clicks == sorted(clicks)
        assert failures == sorted(failures)
    for title in ("Other beginnings", "A user's clicks"):
        assert title in told
    # The masks to refine are the truth itself.
    assert figures["refined"]["0"]["before"] == pytest.approx(1.0, abs=0.02)
    assert "Masks refined, seed 0" in told

    def trained_again(config: Any) -> None:
        raise AssertionError("the run was finished")

    monkeypatch.setattr(bench.clicks, "main", trained_again)
    (out / "row-random--SAM-s0.json").unlink()
    again = figures_of(bench, **settings)[0]["rows"]
    for rows in (again, figures["rows"]):
        for row in rows.values():
            del row["ms"]
    assert again == figures["rows"]
    with pytest.raises(SystemExit, match="made with other clicks"):
        bench.main(bench.Config(**settings | {"clicks": 3}))


def test_figures_by_hand(benchmark) -> None:
    bench = benchmark("clicks")

    def row(*dice: list[float]) -> dict[str, Any]:
        facts = {"clicks": 1.0, "kept": 0.5, "sam_calls": 2.0, "ms": 3.0}
        return {"dice": list(dice), "first": [each[0] for each in dice], "targets": ["a/1", "b/1"], **facts}

    figures = bench.summarise(
        {
            ("random, SAM", 0): row([0.4, 0.2], [0.6, 0.6]),
            ("random, SAM", 1): row([0.4, 0.4], [0.6, 0.8]),
            ("the agent (settled)", 0): row([0.4, 0.5], [0.6, 0.7]),
            ("the agent (settled)", 1): row([0.4, 0.5], [0.6, 0.9]),
            ("oracle, SAM", 0): row([0.4, 0.8], [0.6, 1.0]),
        }
    )
    assert figures["random, SAM"]["agent_ahead"][0] == pytest.approx((0.3 + 0.1 + 0.1 + 0.1) / 4)
    assert figures["oracle, SAM"]["agent_ahead"] == pytest.approx((-0.3, -0.3, -0.3))
    assert figures["random, SAM"]["dice"] == pytest.approx([0.5, 0.5])
    assert figures["random, SAM"]["seeds"] == pytest.approx([0.4, 0.6])
    assert figures["random, SAM"]["lost"] == 0.5  # the first target ends .1 lower, the mean over the seeds
    assert figures["random, SAM"]["gain"][0] == pytest.approx(0.0)
    assert figures["random, SAM"]["captured"] == pytest.approx(0.0)
    assert figures["oracle, SAM"]["captured"] == pytest.approx(1.0)
    shown = bench.table(bench.Config(data=Path("a/full.json"), out=Path("out"), clicks=1), figures, {})
    assert shown.title.startswith("Clicks on full, split test")
    assert shown.rows[2] == [
        *(
            "oracle, SAM",
            "0.500",
            "0.500",
            "0.900",
            "+0.400 (+0.400 .. +0.400)",
            "-0.300 (-0.300 .. -0.300)",
            "0%",
            "1.0 / 0.5",
            "2",
            "3",
            "1.00",
            "",
        )
    ]
