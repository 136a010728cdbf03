"""What the bundled SAM learns from: views, drawn pictures, targets and prompts, episodes; and that a run can be continued."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskwright.engine.run import read_metrics
from maskwright.engine.weights import load_tensors
from maskwright.errors import DataError, MaskwrightError
from maskwright.sam.sam import Sam
from tests.helpers import tiny_config


@pytest.fixture
def tool(script: Callable[[str, str], ModuleType]) -> Callable[[str], ModuleType]:
    return lambda name: script("tools", name)


@pytest.fixture
def views(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("nano_views")


@pytest.fixture
def pictures(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("nano_pictures")


@pytest.fixture
def targets(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("nano_targets")


@pytest.fixture
def sources(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("nano_sources")


@pytest.fixture
def training(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("pretrain_nano")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_discs(size: int = 64, batch: int = 3) -> Tensor:
    """(B,S,S): object 1, and object 2 that touches it."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    ids = torch.zeros(size, size, dtype=torch.long)
    for number, centre in ((1, 20), (2, 36)):
        ids[((x - centre) ** 2 + (y - 30) ** 2) < 10**2] = number
    return ids.expand(batch, -1, -1)


def photographs(count: int) -> Tensor:
    return torch.randint(256, (count, 3, 80, 80), generator=seeded(7)).byte()


# ---------------------------------------------------------------------------------------------------------- pictures


def test_a_relief_shows_its_objects_by_their_borders(pictures: ModuleType):
    ids = two_discs(batch=24)
    flat = torch.full((24, 3, 80, 80), 128, dtype=torch.uint8)
    drawn = pictures.relief(ids, flat, seeded())
    assert drawn.shape == (24, 3, 64, 64)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert torch.equal(drawn, pictures.relief(ids, flat, seeded()))
    across = (drawn[..., 1:] - drawn[..., :-1]).abs().mean(1)
    border = ids[..., 1:] != ids[..., :-1]
    assert across[border].mean() > 1.5 * across[~border].mean()
    # Where two objects touch there is a crease too, and nowhere a picture in which nothing was drawn.
    between = (ids[..., 1:] > 0) & (ids[..., :-1] > 0) & border
    assert across[between].mean() > 1.5 * across[~border].mean()
    empty = pictures.relief(torch.zeros_like(ids), flat, seeded())
    assert not torch.equal(drawn, empty)


def test_a_collage_keeps_the_outlines(pictures: ModuleType):
    ids = two_discs()
    drawn = pictures.collage(torch.rand(3, 3, 64, 64, generator=seeded()), ids, photographs(4), seeded())
    assert drawn.shape == (3, 3, 64, 64)
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_beads_are_many_small_and_round(pictures: ModuleType):
    ids = pictures.bead_ids(8, 128, seed=3)
    assert ids.shape == (8, 128, 128)
    assert np.array_equal(ids, pictures.bead_ids(8, 128, seed=3))
    for picture in ids:
        numbers, counts = np.unique(picture[picture > 0], return_counts=True)
        assert len(numbers) >= 3
        # At most a twentieth of the side in radius, half as much again for the largest.
        assert np.median(counts) < math.pi * (0.05 * 128 * 1.5) ** 2
    drawn = pictures.stained(torch.from_numpy(ids).long(), photographs(8), seeded())
    assert drawn.shape == (8, 3, 128, 128)
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_parts_lie_inside_their_things(pictures: ModuleType):
    ids = two_discs(batch=6)
    plain = torch.full((6, 3, 64, 64), 0.5)
    drawn, parts = pictures.partition(plain, ids, seeded(), everywhere=0.0)
    assert torch.equal(parts > 0, ids > 0)
    for row in range(6):
        assert len(parts[row].unique()) > 3  # the ground, and more parts than things
        for part in parts[row].unique()[1:]:
            assert len(ids[row][parts[row] == part].unique()) == 1
    # The ground stays as it was, away from the seams.
    assert torch.equal(drawn[:, :, :15], plain[:, :, :15])
    assert not torch.equal(drawn, plain)
    assert (pictures.partition(plain, ids, seeded(), everywhere=1.0)[1] > 0).all()


# ------------------------------------------------------------------------------------------------------------- views


def test_a_view_moves_picture_and_ids_alike(views: ModuleType):
    ids = two_discs().to(torch.int16)
    images = (ids * 100).byte()[:, None].expand(-1, 3, -1, -1)
    view, moved = views.look(images, ids, 32, views.wide_views(3, (0.5, 1.0), 0.5, seeded()), seeded())
    assert view.shape == (3, 3, 32, 32)
    inner = torch.nn.functional.max_pool2d(moved[:, None].float(), 3, 1, 1)[:, 0] == moved
    inner &= -torch.nn.functional.max_pool2d(-moved[:, None].float(), 3, 1, 1)[:, 0] == moved
    inner &= moved > 0  # ground may lie outside of the picture
    off = (view[:, 0][inner] - moved[inner] * 100 / 255).abs() > 0.02
    assert inner.any()
    assert off.float().mean() < 0.01


def test_a_closer_look_shows_one_object_whole_and_large(views: ModuleType):
    ids = torch.zeros(40, 64, 64, dtype=torch.long)
    ids[:, 40:46, 12:20] = 3  # 48 pixels
    images = torch.zeros(40, 3, 64, 64, dtype=torch.uint8)
    _, seen = views.look(images, ids, 64, views.close_views(ids, 0.0, seeded(), boxes=(1.5, 4.0)), seeded())
    area = (seen == 3).flatten(1).sum(1) / 64**2
    # Of a crop of 1.5 to 4 times its longer side (8), the object (6 by 8) takes 1/3 to 1/21, but for proportions and turns.
    assert area.min() > 1 / 21 / 2
    assert area.max() < 1 / 3 * 2
    border = torch.cat([seen[:, 0], seen[:, -1], seen[:, :, 0], seen[:, :, -1]], 1) == 3
    assert border.any(1).float().mean() < 0.2
    # Nothing to look at: a view of the whole.
    assert torch.isfinite(views.close_views(torch.zeros_like(ids), 0.0, seeded())).all()


def test_tiles_keep_their_objects_apart(views: ModuleType):
    ids = two_discs(batch=8)
    images = torch.rand(8, 3, 64, 64, generator=seeded())
    together, joined = views.tiled(images, ids, 2, 128)
    assert together.shape == (2, 3, 128, 128)
    assert torch.equal(together[1, :, 64:, :64], images[6])
    assert torch.equal(joined[0, :64, 64:] > 0, ids[1] > 0)
    assert len(joined[0].unique()) == 1 + 4 * 2
    assert views.tiled(images, ids, 2, 96)[1].shape == (2, 96, 96)


def test_pasted_objects_bring_their_pixels(views: ModuleType):
    ids = two_discs(batch=4)
    images = torch.linspace(0.1, 0.9, 4)[:, None, None, None].expand(4, 3, 64, 64).contiguous()
    together, numbers = views.paste(images, ids, 1.0, seeded())
    pasted = numbers > 2
    assert pasted.any()
    kernel = -torch.nn.functional.max_pool2d(-pasted[:, None].float(), 3, 1, 1)[:, 0] > 0
    donor = images[torch.roll(torch.arange(4), 3)]
    assert torch.allclose(together.transpose(0, 1)[:, kernel], donor.transpose(0, 1)[:, kernel], atol=1e-5)
    untouched = torch.nn.functional.max_pool2d(pasted[:, None].float(), 3, 1, 1)[:, 0] == 0
    assert torch.equal(together.transpose(0, 1)[:, untouched], images.transpose(0, 1)[:, untouched])
    assert torch.equal(views.paste(images, ids, 0.0, seeded())[1], ids)


# ----------------------------------------------------------------------------------------------------------- targets


def test_prompts_are_on_their_objects(targets: ModuleType):
    ids = two_discs()
    masks, valid = targets.choose_objects(ids, 4, seeded())
    assert valid.all()
    chosen = (masks * ids[:, None]).amax((2, 3))
    assert set(chosen.flatten().tolist()) <= {1, 2}
    assert torch.equal(masks, ids[:, None] == chosen[:, :, None, None])
    assert not targets.choose_objects(torch.zeros_like(ids), 4, seeded())[1].any()
    for seed in range(6):
        column = targets.sample_in(masks, seeded(seed)).long()
        assert masks.flatten(2).gather(2, (column[..., 1] * 64 + column[..., 0])[..., None]).all()
    exact = targets.boxes_of(masks, seeded(), jitter=0.0)
    for number in (1, 2):
        y, x = (ids[0] == number).nonzero(as_tuple=True)
        box = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
        assert exact[chosen == number].tolist() == [box] * int((chosen == number).sum())
    jittered = targets.boxes_of(masks, seeded(), jitter=0.5)
    assert (jittered[..., 2:] - jittered[..., :2] > 1.99).all()
    assert jittered.min() >= 0
    assert jittered.max() <= 64


def test_a_cut_follows_the_colours(targets: ModuleType):
    """A disc whose left half is dark: pieces of it are mostly one of the halves, at least more so than by chance."""
    ids = two_discs(batch=64)
    disc = (ids == 1)[:, None]
    images = torch.full((64, 3, 64, 64), 0.8)
    images[..., :20] = 0.2
    pieces = targets.cut(images, disc, 1.0, seeded())
    area = pieces.flatten(2).sum(2) / disc.flatten(2).sum(2)
    assert (pieces <= disc).all()
    assert (area[area < 1] >= 0.1).all()
    assert (area < 1).float().mean() > 0.7
    dark = (pieces[..., :20].flatten(2).sum(2) / pieces.flatten(2).sum(2))[area < 1]
    flat = targets.cut(torch.full_like(images, 0.5), disc, 1.0, seeded())
    blind = (flat[..., :20].flatten(2).sum(2) / flat.flatten(2).sum(2))[flat.flatten(2).sum(2) < disc.flatten(2).sum(2)]
    assert (dark - 0.5).abs().mean() > (blind - 0.5).abs().mean() + 0.05
    assert torch.equal(targets.cut(images, disc, 0.0, seeded()), disc)


def test_objects_that_touch_are_joined(targets: ModuleType):
    ids = two_discs(batch=2)
    disc = (ids == 1)[:, None]
    assert torch.equal(targets.join_touching(ids, disc, 1.0, seeded())[:, 0], ids > 0)
    assert torch.equal(targets.join_touching(ids, disc, 0.0, seeded()), disc)
    alone = torch.where(ids == 1, ids, 0)
    assert torch.equal(targets.join_touching(alone, disc, 1.0, seeded()), disc)


def test_ghosts_are_of_all_sizes(targets: ModuleType):
    area = targets.ghosts(16, 6, 64, seeded()).flatten(2).sum(2).flatten() / 64**2
    assert area.min() < 0.01
    assert area.max() > 0.2


# ------------------------------------------------------------------------------------------------- packs and sources


def make_pack(path: Path, tool: Callable[[str], ModuleType], count: int = 24, **meta: Any) -> Path:
    """Pictures of a bright disc on noise, of another size and place each."""
    rng = np.random.default_rng(len(str(path)))

    def one() -> tuple[np.ndarray, np.ndarray]:
        y, x = np.mgrid[:96, :96]
        centre, radius = rng.uniform(30, 66, 2), rng.uniform(8, 24)
        ids = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2).astype(np.uint8)
        pixels = rng.integers(0, 90, (96, 96, 3)) + 150 * ids[..., None]
        return pixels.astype(np.uint8), ids

    tool("photo_packs").write_pack(path, [one() for _ in range(count)], {"name": path.stem, **meta}, quality=80)
    return path


def test_nothing_learns_from_what_is_measured(tool: Callable[[str], ModuleType], tmp_path: Path, scene_folder: Path):
    """The list itself: whoever shortens it has to say so here."""
    packs, packing = tool("photo_packs"), tool("pack_photos")
    assert set(packs.MEASURED_ON) == {"polyps", "saliency", "streets", "cats", "nuclei"}
    for name in packs.MEASURED_ON:
        with pytest.raises(DataError, match=name):
            packs.read_pack(make_pack(tmp_path / f"{name}.npz", tool))
        with pytest.raises(DataError, match=name):
            packing.main(packing.Config(scene_folder, tmp_path / "a.npz", name=name.title()))
        (folder := tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        shutil.copytree(scene_folder, folder)
        with pytest.raises(DataError, match=name):
            packing.main(packing.Config(folder, tmp_path / "a.npz"))
    renamed = make_pack(tmp_path / "other.npz", tool, name="cats")
    with pytest.raises(DataError, match="nothing may learn from it"):
        packs.read_pack(renamed)


def test_a_picture_that_must_stay_unseen_is_found_by_its_pixels(
    tool: Callable[[str], ModuleType], tmp_path: Path, scene_folder: Path
):
    packing = tool("pack_photos")
    config = packing.Config(scene_folder, tmp_path / "a.npz", apart_from=[scene_folder])
    with pytest.raises(DataError, match="the same picture as"):
        packing.main(config)
    assert not config.out.exists()


def test_a_dataset_becomes_a_pack(tool: Callable[[str], ModuleType], tmp_path: Path, scene_folder: Path):
    packs, packing = tool("photo_packs"), tool("pack_photos")
    config = packing.Config(
        scene_folder, tmp_path / "scenes.npz", split=("val", "test"), kind="shape", upright=False, size=256, quality=95
    )
    packing.main(config)
    pack = packs.read_pack(config.out)
    assert (pack.name, pack.kind, pack.upright, len(pack)) == ("scenes", "shape", False, 6)
    assert pack.images.shape == (6, 3, 256, 256)
    assert pack.has_masks
    dataset = packing.Dataset.load(scene_folder)
    first = packing.samples_of(config, dataset)[0]
    pixels = packing.read_image(dataset.image_path(first)).astype(float)
    assert np.abs(pack.images[0].permute(1, 2, 0).numpy()[2::4, 2::4].astype(float) - pixels).mean() < 12
    values = packing.read_mask(dataset.mask_path(first))
    assert (pack.ids[0].numpy()[::4, ::4] > 0).sum() == ((values > 0) & (values < 255)).sum()
    with pytest.raises(DataError, match="no picture with a mask in split nowhere"):
        packing.main(dataclasses.replace(config, split=("nowhere",)))


def test_a_tenth_of_a_pack_is_kept(tool: Callable[[str], ModuleType], tmp_path: Path):
    packs = tool("photo_packs")
    path = make_pack(tmp_path / "discs.npz", tool, kind="disc")
    rest, kept = packs.read_pack(path).divided()
    assert (len(rest), len(kept)) == (22, 2)
    assert not (rest.images[:, None] == kept.images[None]).flatten(2).all(2).any()
    assert rest.kind == kept.kind == "disc"
    without = dataclasses.replace(rest, ids=torch.zeros_like(rest.ids))
    assert [len(part) for part in without.divided()] == [22, 0]
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read as a pack"):
        packs.read_pack(tmp_path / "broken.npz")


@pytest.fixture
def source(tool: Callable[[str], ModuleType], sources: ModuleType, tmp_path: Path) -> Any:
    packs = [
        tool("photo_packs").read_pack(make_pack(tmp_path / f"{name}.npz", tool, kind=name)) for name in ("disc", "dot")
    ]
    return sources.Source(packs, size=64, scenes=32, beads=2, seed=5)


def test_a_batch_depends_on_seed_and_step_alone(source: Any):
    source.begin(3, 1)
    images, ids, name = source.draw(4, 64)
    source.begin(40, 0)
    source.draw(4, 64)
    source.begin(3, 1)
    again = source.draw(4, 64)
    assert name == again[2]
    assert torch.equal(images, again[0])
    assert torch.equal(ids, again[1])
    source.begin(3, 0)
    assert not torch.equal(images, source.draw(4, 64)[0])


def test_all_sorts_of_picture_and_episode_come(source: Any):
    sorts, episodes = set(), {}
    for step in range(50):
        source.begin(step % 5, step)  # scenes stay
        images, ids, name = source.draw(4, 64)
        sorts.add(name)
        assert images.shape == (4, 3, 64, 64)
        assert 0 <= images.min() <= images.max() <= 1
        assert ids.shape == (4, 64, 64)
        assert ids.min() >= 0
        episode = source.episode(8, 64)
        episodes[episode.name] = episode
        rows = torch.arange(8)[:, None]
        assert (episode.order != rows).all()
        assert episode.query.dtype == episode.reference.dtype == torch.bool
    assert sorts == {"photo", "paste", "tiles", "beads", "scene", "parts"}
    assert episodes.keys() == {"kind", "among others", "twins", "bumps", "slides", "pairs"}
    assert torch.equal(episodes["twins"].order[:, 0], torch.arange(8) ^ 1)


def test_what_is_absent_is_of_another_kind(sources: ModuleType, source: Any):
    """Masks say which kind a row shows: references of an absent thing come from the other kind's rows."""
    packs, absent = source.packs, 0
    for step in range(40):
        source.begin(0, step)
        mask = torch.zeros(8, 32, 32, dtype=torch.bool)
        episode = source._grouped(torch.zeros(8, 3, 32, 32), mask, [packs[0], packs[1]], "kind")
        other = episode.order // 4 != torch.arange(8)[:, None] // 4
        assert torch.equal(other.all(1), episode.absent)
        assert torch.equal(other.any(1), episode.absent)
        alike = source._grouped(torch.zeros(8, 3, 32, 32), mask, [packs[0], packs[0]], "kind")
        assert not alike.absent.any()
        absent += int(episode.absent.sum())
    assert 0 < absent < 100


# ---------------------------------------------------------------------------------------------------------- training


def test_late_interactions_are_longer(tool: Callable[[str], ModuleType]):
    trainer = tool("nano_trainer")
    dice = torch.linspace(0, 0.999, 200).tolist()

    def mean(click: bool, fraction: float) -> float:
        return float(np.mean([trainer.count_rounds(click, fraction, d, more) for d in dice for more in range(3)]))

    for click in (True, False):
        assert 1 < mean(click, 0.0) < mean(click, 1.0) < 5


def test_settings_that_cannot_be_are_named(training: ModuleType, tmp_path: Path):
    config = training.Config(tmp_path, small=100, batch=10, save_every=150, init=tmp_path, trunk=tmp_path)
    with pytest.raises(MaskwrightError) as caught:
        training.check(config)
    for text in ("--small 100", "--batch 10", "--save-every 150", "not both"):
        assert text in str(caught.value)


def test_a_resumed_run_equals_one_that_was_never_stopped(
    training: ModuleType,
    tool: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Stopped among the ghosts and again on the full canvas; then the model is of use to ``Sam.load``."""
    monkeypatch.setattr(tool("nano_trainer"), "nano_config", tiny_config)
    pack = make_pack(tmp_path / "discs.npz", tool, kind="disc")
    config = training.Config(
        tmp_path / "straight",
        packs=[pack],
        ghost_steps=2,
        steps=4,
        small=32,
        size=64,
        small_share=0.5,
        batch=8,
        parts=1,
        objects=2,
        scenes=32,
        beads=2,
        log_every=1,
        save_every=1,
        validate_every=3,
        device="cpu",
        threads=1,
    )
    training.main(config)
    assert "s a step: pictures" in capsys.readouterr().out

    class Killed(Exception):
        pass

    stops, step = [1, 5], training.Trainer.step

    def mortal(trainer: Any, number: int) -> dict[str, Tensor]:
        if stops and number == stops[0]:
            stops.pop(0)
            raise Killed
        return step(trainer, number)

    monkeypatch.setattr(training.Trainer, "step", mortal)
    resumed = dataclasses.replace(config, out=tmp_path / "resumed", resume=True)
    for _ in range(2):
        with pytest.raises(Killed):
            training.main(resumed)
    training.main(resumed)
    for name, value in load_tensors(config.out / "model" / "model.safetensors").items():
        assert torch.equal(value, load_tensors(resumed.out / "model" / "model.safetensors")[name]), name
    logs = [[{k: str(v) for k, v in line.items()} for line in read_metrics(c.out)] for c in (config, resumed)]
    assert logs[0] == logs[1]
    sam = Sam.load(config.out / "model")
    assert sam.size == 64
    assert load_tensors(config.out / "model" / "model.safetensors")["no_memory_embedding"].dtype == torch.float16
    # New weights go on from these, without ghosts.
    monkeypatch.setattr(training.Trainer, "step", step)
    further = dataclasses.replace(config, out=tmp_path / "further", init=config.out / "model", steps=1, small_share=1.0)
    training.main(further)
    assert read_metrics(further.out)[-1]["step"] == 1
