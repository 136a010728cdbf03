"""The recipe alignsam, end to end on the smallest SAM: one encoding per image, PPO's ratio, resuming, either branch, errors."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import maskwright
from maskwright.data.dataset import Dataset
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError, MaskwrightError, WeightsError
from maskwright.methods.autoprompt.agent import SelfPrompter
from maskwright.recipes.alignsam import Config, main
from maskwright.recipes.alignsam.paper import PaperTrainer
from maskwright.recipes.alignsam.strong import StrongTrainer
from maskwright.sam.click_grid import cells_of
from maskwright.sam.sam import Sam
from tests.recipes.training import assert_same_run, environment, log, python, same, session_of, started

SMALLEST = {"shots": 4, "epochs": 2, "clicks": 3, "ppo_epochs": 3, "grid": 4, "srm_batch": 2, "device": "cpu"}
PAPER = SMALLEST | {"preset": "paper"}
STRONG = SMALLEST | {"preset": "strong", "views": 2, "srm_updates": 2}


def settings(data: Path, out: Path, weights: Path, **changed: Any) -> Config:
    return Config(
        **{
            "data": data / "full.json",
            "out": out,
            "sam": str(weights),
            **(STRONG if changed.get("preset") == "strong" else PAPER),
            **changed,
        }
    )


@pytest.fixture(scope="module")
def encoded() -> Counter[bytes]:
    return Counter()


@pytest.fixture(scope="module")
def run(scene_folder, tiny_sam_folder, tmp_path_factory, encoded) -> Path:
    """A finished run, with every image noted that SAM's encoder saw on the way."""
    with pytest.MonkeyPatch.context() as patch:
        encode = Sam.encode

        def watched(self: Sam, images: torch.Tensor):
            encoded.update(image.numpy().tobytes() for image in images.cpu())
            return encode(self, images)

        patch.setattr(Sam, "encode", watched)
        return main(settings(scene_folder, tmp_path_factory.mktemp("alignsam") / "run", tiny_sam_folder))


def test_every_image_is_encoded_once_in_all_of_training(run: Path, encoded) -> None:
    assert len(encoded) == 4 + 2  # shots and validation
    assert set(encoded.values()) == {1}


def test_the_log_and_the_report(run: Path) -> None:
    entries = log(run)
    episodes = [entry for entry in entries if "reward" in entry]
    assert [entry["step"] for entry in episodes] == [1, 2]
    for entry in episodes:
        assert entry["ratio_first"] < 1e-5
        assert entry["foreground_rate"] == pytest.approx((entry["reward"] + 1) / 2)
        assert 0 <= entry["label_accuracy"] <= 1
    assert {"val_miou", "val_mae"} <= entries[-1].keys()
    page = (run / "report.html").read_text()
    assert "Where it clicked" in page
    assert "random places" in page


def test_prediction_needs_no_prompt(run: Path, scene_folder, tmp_path: Path) -> None:
    predictor = maskwright.load(run)
    assert predictor.categories == ("background", "disc + figure")
    wide = np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8)
    dataset = Dataset.load(scene_folder).split("test")
    images = [wide, *(dataset.image_path(sample) for sample in dataset)]
    predictions = list(predictor.predict(images, batch=2))
    assert predictions[0].mask.shape == (40, 90)
    assert set(np.unique(predictions[0].mask)) <= {0, 1}
    clicks = predictions[0].record()["clicks"]
    assert len(clicks) == 2 + 3
    assert [label for *_, label in clicks[:2]] == ["fg", "bg"]
    assert all(0 <= x < 90 and 0 <= y < 40 for x, y, _ in clicks)
    alone = next(iter(predictor.predict(images[1], clicks=0)))
    assert len(alone.record()["clicks"]) == 2
    with pytest.raises(MaskwrightError, match="--clicks -1: must be a whole number, 0 or more"):
        next(iter(predictor.predict(images[1], clicks=-1)))


def test_evaluation_at_the_images_own_size(run: Path, scene_folder) -> None:
    dataset = Dataset.load(scene_folder)
    scores = maskwright.evaluate(run, dataset, "test")
    assert scores["images"] == 4
    assert scores["foreground"] == ["disc", "figure"]
    table = maskwright.load(run).score_table(scores)
    assert next(row[0] for row in table.rows) == "mIoU"
    # By hand for one image: IoU of the mask that prediction gives with the foreground of the true one.
    sample = dataset.split("test")[0]
    mask = next(iter(maskwright.load(run).predict(dataset.image_path(sample)))).mask > 0
    path = dataset.mask_path(sample)
    assert path is not None
    truth = read_mask(path) > 0
    union = (mask | truth).sum()
    expected = (mask & truth).sum() / union if union else 1.0
    assert scores["per_image"][0]["iou"] == pytest.approx(expected, abs=0.02)
    with pytest.raises(DataError, match=r"split 'nowhere' is empty"):
        maskwright.evaluate(run, dataset, "nowhere")
    other = Dataset(dataset.root, ("background", "disc", "cat"), dataset.samples)
    with pytest.raises(DataError, match=r"the model finds 'figure', the dataset has no such category"):
        maskwright.evaluate(run, other, "test")


def test_resumed_equals_uninterrupted(run: Path, scene_folder, tiny_sam_folder, tmp_path: Path, monkeypatch) -> None:
    play = PaperTrainer.play

    def stopped(self: PaperTrainer):
        if self.stage.step == 1:
            raise KeyboardInterrupt
        return play(self)

    config = settings(scene_folder, tmp_path / "run", tiny_sam_folder, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(PaperTrainer, "play", stopped)
        with pytest.raises(KeyboardInterrupt):
            main(config)
    config.resume = True
    main(config)
    assert_same_run(config.out, run)
    first, second = (load_file(folder / "model" / "srm.safetensors") for folder in (config.out, run))
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_training_clicks_on_no_cell_twice(scene_folder, tiny_sam_folder, tmp_path: Path) -> None:
    """Nor on those of the opening: as in prediction."""
    trainer = started(settings(scene_folder, tmp_path / "run", tiny_sam_folder, clicks=12), PaperTrainer)
    rollout = trainer.play()
    opening = trainer.env.state.points[:, :2]
    cells = cells_of(opening, torch.zeros(4, 2, dtype=torch.long), trainer.bank.size, 4).tolist()
    for row, actions in enumerate(rollout.actions.T.tolist()):
        assert len({*actions, *cells[row]}) == len(actions) + len(set(cells[row]))


def test_shots_are_nested_and_drawn_by_the_seed(scene_folder, tiny_sam_folder, tmp_path: Path) -> None:
    def names(**changed: Any) -> tuple[str, ...]:
        config = settings(scene_folder, tmp_path / "none", tiny_sam_folder, **changed)
        return PaperTrainer(config, session_of(config)).bank.names

    assert names(shots=3) == names(shots=6)[:3]
    assert names(shots=6, seed=1) != names(shots=6)
    everything = names(shots=0)
    assert set(names(shots=6)) < set(everything)
    with pytest.raises(DataError, match=r"--shots asks for 40\. Label more, or ask for fewer"):
        names(shots=40)


def test_another_sam_is_refused(run: Path, tiny_sam_folder, tmp_path: Path, monkeypatch) -> None:
    other = Sam.from_config(Sam.load(tiny_sam_folder).model.config, seed=5)
    monkeypatch.setattr(Sam, "load", lambda *_, **__: other)
    with pytest.raises(WeightsError, match="trained for other weights of SAM"):
        maskwright.load(run)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"category": ("cow",)}, "--category 'cow': the dataset has 'disc', 'figure'"),
        ({"grid": 1, "clicks": 0}, "--grid 1: must be at least 2; --clicks 0: must be at least 1"),
        ({"sam": "nowhere/at-all.pt"}, "no such file"),
    ],
)
def test_mistakes_leave_no_run_behind(scene_folder, tiny_sam_folder, tmp_path: Path, changed, message: str) -> None:
    with pytest.raises(MaskwrightError, match=message):
        main(settings(scene_folder, tmp_path / "run", tiny_sam_folder, **changed))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_by_command(scene_folder, tiny_sam_folder, tmp_path: Path) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**STRONG, "epochs": 1}.items()]
    out, masks = tmp_path / "run", tmp_path / "masks"
    train = python(
        "maskwright", "train", "alignsam", scene_folder / "full.json", "--out", out, "--sam", tiny_sam_folder
    )
    subprocess.run([*train, *flags], env=environment(), check=True, capture_output=True)
    predict = python("maskwright", "predict", out, scene_folder / "images", "--out", masks)
    done = subprocess.run(predict, env=environment(), check=True, capture_output=True, text=True)
    assert "18 images predicted" in done.stdout
    assert len(list((masks / "masks").glob("*.png"))) == 18


# ------------------------------------------------------------------------------------------------ the preset strong


@pytest.fixture(scope="module")
def strong(scene_folder, tiny_sam_folder, tmp_path_factory) -> Path:
    return main(settings(scene_folder, tmp_path_factory.mktemp("strong") / "run", tiny_sam_folder, preset="strong"))


def test_strong_resumes(strong: Path, scene_folder, tiny_sam_folder, tmp_path: Path, monkeypatch) -> None:
    episode = StrongTrainer.episode

    def stopped(self: StrongTrainer):
        if self.stage.step == 1:
            raise KeyboardInterrupt
        return episode(self)

    config = settings(scene_folder, tmp_path / "run", tiny_sam_folder, preset="strong", checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(StrongTrainer, "episode", stopped)
        with pytest.raises(KeyboardInterrupt):
            main(config)
    config.resume = True
    main(config)
    assert_same_run(config.out, strong)
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (config.out, strong))
    assert all(torch.equal(first[key], second[key]) for key in second)


def test_strong_needs_no_policy(strong: Path, scene_folder) -> None:
    assert {"foreground_rate", "label_accuracy", "srm_loss"} <= log(strong)[0].keys()
    predictor = maskwright.load(strong)
    network = predictor.network
    assert isinstance(network, SelfPrompter)
    assert network.policy is None
    assert not (strong / "model" / "srm.safetensors").exists()
    dataset = Dataset.load(scene_folder).split("test")
    for prediction in predictor.predict(dataset.image_path(sample) for sample in dataset):
        record = prediction.record()
        assert len(record["clicks"]) <= 2 + 3
        assert (record["presence"] <= 0.5) == (not record["clicks"])
    assert maskwright.evaluate(strong, dataset, "test")["fr"] is not None


def test_each_srm_of_a_half_learns_from_the_other(scene_folder, tiny_sam_folder, tmp_path: Path) -> None:
    """Of "disc" alone some images show none: these are drawn on the way, teach every SRM, and are never prompted."""
    config = settings(scene_folder, tmp_path / "run", tiny_sam_folder, preset="strong", category=("disc",), shots=4)
    trainer = StrongTrainer(config, session_of(config))
    ids = [sample.id for sample in trainer.drawn]
    shown, empty = set(trainer.bank.names), set(ids) - set(trainer.bank.names)
    assert len(shown) == 4
    assert empty
    assert len(trainer.views) == 3 * len(ids)
    halves = [set(half.names) for half in trainer.halves]
    assert halves[0] | halves[1] == shown
    assert not halves[0] & halves[1]
    for held_out, (places, shots) in zip([set(), *halves], trainer.learners, strict=True):
        assert {ids[image] for image in trainer.views.image[places].tolist()} == set(ids) - held_out
        assert {trainer.bank.names[shot] for shot in shots.tolist()} == shown - held_out
    # The plain views are the images of the bank: the same embedding, and a target that is its mask.
    plain = trainer.plain
    expected = trainer.srm.features(trainer.bank.embedding)
    torch.testing.assert_close(trainer.views.features[plain], expected, atol=1e-4, rtol=1e-3)
    foreground = torch.nn.functional.adaptive_avg_pool2d(trainer.bank.known_truth.canvas.float(), 4)
    torch.testing.assert_close(trainer.views.target[plain], foreground)
    assert all(trainer.views.target[ids.index(name)].max() == 0 for name in empty)


# ------------------------------------------------------------------------------------------------ the explicit branch


def test_a_text_selects_the_explicit_branch_and_its_category(scene_folder, tiny_sam_folder, tmp_path: Path) -> None:
    run = main(settings(scene_folder, tmp_path / "run", tiny_sam_folder, text=("disc",), epochs=1))
    predictor = maskwright.load(run)
    assert predictor.categories == ("background", "disc")
    network = predictor.network
    assert isinstance(network, SelfPrompter)
    assert network.srm.branch == "explicit"
    dataset = Dataset.load(scene_folder).split("test")
    scores = maskwright.evaluate(run, dataset, "test")
    assert scores["foreground"] == ["disc"]
    entries = log(run)
    assert entries[0]["ratio_first"] < 1e-5


def test_several_names_are_one_foreground(scene_folder, tiny_sam_folder, tmp_path: Path) -> None:
    config = settings(scene_folder, tmp_path / "run", tiny_sam_folder, text=("disc", "figure"))
    trainer = PaperTrainer(config, session_of(config))
    assert trainer.foreground.names == ("disc", "figure")
    clip, bank = trainer.agent.clip, trainer.bank
    assert clip is not None
    images = bank.pixels.float() / 255
    either = torch.maximum(clip.maps(images, ["disc"]), clip.maps(images, ["figure"]))[:, 0]
    found = trainer.agent.semantic(bank)
    assert found is not None
    side = bank.embedding.low.shape[-1]
    torch.testing.assert_close(found, torch.nn.functional.adaptive_avg_pool2d(either, side))
    assert config.srm_updates == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ("polyp",),
            r"text 'polyp': nano-clip does not know 'polyp', only [\s\S]*disc[\s\S]*openai/clip-vit-base-patch16",
        ),
        (("",), "text 1 is empty"),
        (("disc", "disc"), "text 'disc' is given twice"),
    ],
)
def test_texts_that_nobody_understands(scene_folder, tiny_sam_folder, tmp_path: Path, text, message: str) -> None:
    with pytest.raises(DataError, match=message):
        main(settings(scene_folder, tmp_path / "run", tiny_sam_folder, text=text))
    assert not (tmp_path / "run").exists()


def test_a_new_training_starts_from_this_one(run: Path, scene_folder, tiny_sam_folder, tmp_path: Path) -> None:
    trainer = started(settings(scene_folder, tmp_path / "next", tiny_sam_folder, init=run), PaperTrainer)
    assert same(trainer.policy, run / "model" / "model.safetensors")
    assert same(trainer.srm, run / "model" / "srm.safetensors")
    with pytest.raises(WeightsError, match=r"its srm is another network .*; give the settings that it was made with"):
        started(settings(scene_folder, tmp_path / "x", tiny_sam_folder, init=run, text=("disc",)), PaperTrainer)
    assert not (tmp_path / "x").exists()


def test_strong_starts_from_strong(run: Path, strong: Path, scene_folder, tiny_sam_folder, tmp_path: Path) -> None:
    config = settings(scene_folder, tmp_path / "next", tiny_sam_folder, init=strong, preset="strong")
    trainer = started(config, StrongTrainer)
    # Those of the halves start untrained: the earlier SRM knows all images.
    assert [same(srm, strong / "model" / "model.safetensors") for srm in trainer.srms] == [True, False, False]
    with pytest.raises(WeightsError, match=r"its model is another network"):
        started(settings(scene_folder, tmp_path / "x", tiny_sam_folder, init=run, preset="strong"), StrongTrainer)
