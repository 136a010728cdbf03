"""The benchmark of click environments at its smallest: all ways give the same masks, and the figures are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from maskwright.sam.sam import Sam


@pytest.fixture
def bench(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("click_env")


def config(bench: ModuleType, folder: Path, **changed):
    settings = {"images": (1, 3), "clicks": 2, "one_by_one": 2, "repeats": 1, "threads": 1}
    return bench.Config(sam=str(folder), **settings | changed)


def test_all_ways_see_and_answer_the_same(bench: ModuleType, tiny_sam_folder: Path) -> None:
    settings = config(bench, tiny_sam_folder)
    sam, bank, actions = bench.prepare(settings)
    env = bench.ClickVectorEnv(
        sam, bank, len(bank), bench.ClickEnvSettings(observation="pixels", max_clicks=2, shuffle=False)
    )
    env.reset(seed=0)
    steps = [env.step(step) for step in actions]
    with torch.no_grad():
        for cached in (False, True):
            alone = bench.OneByOne(sam, bank, cached=cached)
            for row in range(len(bank)):
                alone.reset(row)
                for step in range(2):
                    seen, reward = alone.step(int(actions[step, row]))
                    assert seen.dtype == np.uint8
                    other = steps[step][0][row]
                    for channel in (0, 1, 2, 4, 5):
                        assert np.abs(seen[channel].astype(int) - other[channel]).max() <= 1
                    # Random weights leave some pixels so near to the threshold that rounding decides.
                    assert (seen[3] != other[3]).mean() < 0.01
                    assert reward == pytest.approx(float(steps[step][1][row]), abs=0.01)
                torch.testing.assert_close(alone.logits[0], env.state.logits[row], atol=1e-4, rtol=1e-3)


def test_the_bank_is_filled_up(bench: ModuleType, tiny_sam_folder: Path) -> None:
    _, bank, actions = bench.prepare(config(bench, tiny_sam_folder, images=(9,)))
    assert (len(bank), actions.shape) == (9, (2, 9))


def test_the_table_and_its_figures(bench: ModuleType, tiny_sam_folder: Path, tmp_path: Path, capsys) -> None:
    bench.main(config(bench, tiny_sam_folder, json=tmp_path / "figures.json"))
    told = json.loads((tmp_path / "figures.json").read_text())
    assert list(told["ways"]) == ["published", "cached", "1", "3"]
    assert all(way["masks_differ"] <= bench.TOLERANCE and way["clicks_per_second"] > 0 for way in told["ways"].values())
    assert sum(told["ways"]["3"]["profile"]["kinds"].values()) == pytest.approx(1)
    assert told["ways"]["3"]["bytes_each"] > 0
    assert "2 clicks an episode, 64 pixels" in capsys.readouterr().out


def test_the_whole_model_has_one_size(bench: ModuleType, tiny_sam: Sam) -> None:
    bigger = Sam(tiny_sam.model, size=96)
    with pytest.raises(SystemExit, match="works at 64 pixels only"):
        bench.whole_model(bigger)


@pytest.mark.parametrize("wrong", [{"clicks": 0}, {"images": (4, 0)}, {"threads": 0}])
def test_settings_out_of_range_are_refused(bench: ModuleType, tiny_sam_folder: Path, wrong) -> None:
    with pytest.raises(SystemExit, match="at least 1"):
        config(bench, tiny_sam_folder, **wrong)
