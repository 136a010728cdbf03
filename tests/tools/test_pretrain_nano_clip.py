"""Training nano-clip at its smallest: it runs to the end, its model loads, and a killed run ends like one that was not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from maskwright.nets.clip_surgery import ClipSurgery


class Clock:
    """Instead of ``time``: every step takes a quarter of a minute, and a checkpoint is due after each."""

    def __init__(self) -> None:
        self.processor, self.wall = 0.0, 0.0

    def process_time(self) -> float:
        self.processor += 15.0
        return self.processor

    def monotonic(self) -> float:
        self.wall += 200.0
        return self.wall


@pytest.fixture
def tool(script: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = script("tools", "pretrain_nano_clip")
    monkeypatch.setattr(module, "time", Clock())
    pointing = module.pointing
    monkeypatch.setattr(module, "pointing", lambda clip, difficulty, count=192: pointing(clip, difficulty, 8))
    return module


def settings(out: Path, **changed: object) -> dict[str, object]:
    # Four steps: two on crops of objects, two on whole scenes.
    return {"out": out, "minutes": 1.0, "scenes": 32, "batch": 4, "near_share": 0.5, **changed}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.slow
def test_it_runs_to_the_end_and_goes_on_where_it_was_killed(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.main(tool.Config(**settings(tmp_path / "whole")))
    told = capsys.readouterr().out
    assert "difficulty 1.0:" in told
    log = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert all(0 <= line[name] <= 1 for line in log for name in ("alone", "among", "chance"))
    clip = ClipSurgery.load(tmp_path / "whole" / "model")
    assert clip.maps(torch.rand(2, 3, 128, 128), ["disc"]).shape[0] == 2

    export, exports = tool.export, []

    def export_and_die(trainer: object, folder: Path) -> None:
        export(trainer, folder)
        exports.append(folder)
        if len(exports) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tool, "export", export_and_die)
        with pytest.raises(KeyboardInterrupt):
            tool.main(tool.Config(**settings(tmp_path / "killed")))
    half = weights(tmp_path / "killed")
    tool.main(tool.Config(**settings(tmp_path / "killed", resume=True)))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert any(not torch.equal(whole[name], half[name]) for name in whole)


def test_objects_of_a_pool_are_cut_out_where_they_are(tool: ModuleType) -> None:
    instances = torch.zeros(2, 64, 64, dtype=torch.int16)
    instances[0, 16:32, 8:24] = 1
    instances[1, 0:64, 32:64] = 2
    instances[1, 0, 0] = 1  # too small
    images, categories = torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([[3, 1], [4, 2]])
    cutouts = tool.Cutouts.of(tool.Pool(images, instances, None, categories))
    assert cutouts.image.tolist() == [0, 1]
    assert cutouts.category.tolist() == [3, 2]
    assert cutouts.box.tolist() == [[-0.75, -0.5, -0.25, 0.0], [0.0, -1.0, 1.0, 1.0]]
    # Of the first image alone, there is one object to draw; its middle stays in sight.
    image, affines = cutouts.draw(16, 1, torch.Generator().manual_seed(0))
    assert image.tolist() == [0] * 16
    assert (affines[:, :, 2] - torch.tensor([-0.5, -0.25])).abs().max() <= 0.3 * 0.25 + 1e-6
    scale = torch.linalg.det(affines[:, :, :2]).abs().sqrt()
    assert ((scale >= 1.1 * 0.25 - 1e-6) & (scale <= 2.2 * 0.25 + 1e-6)).all()
    view, ids = tool.views(images[image], instances[image], 32, affines)
    assert view.shape == (16, 3, 32, 32)
    assert set(ids.unique().tolist()) <= {0, 1}
    assert (ids == 1).flatten(1).any(1).all()


def test_pairs_with_the_same_sentence_count_as_right(tool: ModuleType) -> None:
    images, texts = torch.eye(2), torch.eye(2)
    alike = tool.contrast(images, texts, ["a", "a"], torch.tensor(1.0))
    other = tool.contrast(images, texts, ["a", "b"], torch.tensor(1.0))
    log_softmax = torch.eye(2).log_softmax(1)
    torch.testing.assert_close(other, -log_softmax.diagonal().mean())
    torch.testing.assert_close(alike, -log_softmax.mean())


def test_a_map_is_preferred_on_its_own_object(tool: ModuleType) -> None:
    instances = torch.zeros(1, 128, 128, dtype=torch.long)
    instances[:, 16:48, 16:48], instances[:, 80:112, 80:112] = 1, 2
    scores = torch.zeros(1, len(tool.NAMES), 16, 16)
    scores[0, 0, 2:6, 2:6] = 1.0  # the first name is highest on object 1
    scores[0, 1, 2:6, 2:6] = 1.0  # the second too, though object 2 has it
    assert tool.preferences(scores, instances, torch.tensor([[1, 2]])) == [1.0, 0.0]
    assert tool.preferences(scores, instances, torch.tensor([[1, 1]])) == []
