"""The head's training on tiny pictures: a resumed one equals one that was never stopped, and what results are measured on is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from maskwright.errors import DataError, MaskwrightError
from maskwright.methods.instances.dense_head import begin_with_head
from maskwright.nets.dense_instances import create
from maskwright.sam.sam import Sam

SMALLEST = {"steps": 4, "size": 64, "batch": 2, "scenes": 32, "beads": 4, "log_every": 1, "save_every": 2, "threads": 1}


@pytest.fixture
def modules(script: Callable[[str, str], ModuleType]) -> tuple[ModuleType, ModuleType]:
    return script("tools", "pretrain_instance_head"), script("tools", "photo_packs")


def pack(photo_packs: ModuleType, path: Path) -> Path:
    """Pictures with a bright square each."""
    rng, pictures = np.random.default_rng(0), []
    for _ in range(12):
        ids = np.zeros((64, 64), np.uint8)
        y, x = rng.integers(4, 36, 2)
        ids[y : y + 22, x : x + 22] = 1
        pictures.append(((60 + 150 * ids[..., None] + rng.integers(0, 30, (64, 64, 3))).astype(np.uint8), ids))
    photo_packs.write_pack(path, pictures, {"name": path.stem}, 80)
    return path


@pytest.mark.slow
def test_resumed_it_is_the_same(
    modules: tuple[ModuleType, ModuleType], tiny_lite_sam_folder: Path, tmp_path: Path
) -> None:
    tool, photo_packs = modules
    packs = [pack(photo_packs, tmp_path / "squares.npz")]

    def config(name: str, **changed: object):
        head = tmp_path / f"{name}.safetensors"
        common = {"out": tmp_path / name, "packs": packs, "sam": str(tiny_lite_sam_folder), "head": head}
        return tool.Config(**(common | SMALLEST | changed))

    tool.main(config("whole"))
    step = tool.Trainer.step

    def struck(self, number: int):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool.Trainer, "step", struck)
        with pytest.raises(KeyboardInterrupt):
            tool.main(config("killed"))
    tool.main(config("killed", resume=True))
    whole, killed = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert not any(name.startswith("trunk.") for name in whole)
    sam = Sam.load(str(tiny_lite_sam_folder))
    assert begin_with_head(create(sam, 3, 64, 1.0), sam, tmp_path / "whole.safetensors")


def test_what_cannot_be_is_told(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    tool, _ = modules
    with pytest.raises(DataError, match="nuclei"):
        tool.main(tool.Config(out=tmp_path / "run", packs=[tmp_path / "nuclei.npz"]))
    with pytest.raises(MaskwrightError, match="--save-every 70"):
        tool.main(tool.Config(out=tmp_path / "run", save_every=70))
