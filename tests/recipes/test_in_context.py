"""New images in context: what travels with a model, what it answers, and what is told about the references."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from maskwright import api
from maskwright.cli import main
from maskwright.data.batch import Batch
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind
from maskwright.data.mask_files import read_mask
from maskwright.errors import MaskwrightError, WeightsError
from maskwright.methods.in_context import files as in_context_files
from maskwright.methods.in_context import pool, selection
from maskwright.methods.in_context import predictor as in_context
from maskwright.methods.in_context.judging import PredictMasks
from maskwright.methods.in_context.predictor import InContextPredictor
from maskwright.nets.selector_names import SelectorName
from maskwright.recipes import samix
from maskwright.recipes.samix import report
from maskwright.recipes.samix.trainer import Trainer
from maskwright.sam.prompts import PADDING, Prompts
from tests.recipes.training import Stopped, same, settings, started, stop_after
from tests.tiny_model import seal

LENGTH = {"steps": 10, "warm_up": 2, "sam_every": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, scene_folder: Path, tiny_sam_folder: Path) -> Trainer:
    """A finished training with a policy, as it was in memory."""
    kept: list[Trainer] = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda trainer, *_: kept.append(trainer))
        out = tmp_path_factory.mktemp("policy") / "run"
        samix.main(settings(scene_folder, out, tiny_sam_folder, selector="policy", **LENGTH))
    return kept[0]


@pytest.fixture(scope="module")
def run(trained: Trainer) -> Path:
    return trained.config.out


def images_of(folder: Path) -> list[Path]:
    dataset = Dataset.load(folder)
    return [dataset.image_path(sample) for sample in dataset.split("test")]


def canvases(folder: Path) -> torch.Tensor:
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in images_of(folder)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def always(predictor: InContextPredictor, category: int | None) -> None:
    """Let the segmenter see one category everywhere in the left half, or nothing at all."""

    def seen(images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), len(predictor.categories), 16, 16)
        logits[:, 0] = 9
        if category is not None:
            logits[:, category, :, :8] = 18
        return logits

    predictor.context.segmenter = seen  # type: ignore[assignment]


def test_what_travels_is_what_was_trained(trained: Trainer, run: Path):
    context = api.load(run, in_context=True, device="cpu").context
    mine, theirs = context.answerer.sam.state_dict(), trained.sam.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    pool, whole = context.answerer.pool, trained.labeller.pool
    assert len(pool) == len(whole) == len(context.pictures)
    names = [context.names[sample] for sample in pool.tensors["sample"].tolist()]
    assert names == [trained.train[sample].id for sample in whole.tensors["sample"].tolist()]
    for name in ("features", "pointers", "memory", "whole", "foreground", "kind", "category"):
        assert torch.equal(pool.tensors[name], whole.tensors[name]), name
    assert pool.tensors["features"].dtype == torch.float16
    assert trained.policy is not None
    assert context.answerer.policy is not None
    for name, tensor in trained.policy.net.state_dict().items():
        assert torch.equal(context.answerer.policy.net.state_dict()[name], tensor), name


@torch.no_grad()
def test_an_answer_is_the_one_done_by_hand(run: Path, scene_folder: Path):
    """The same as encode, choose, recall and decode done by hand, image by image."""
    predictor = api.load(run, in_context=True, device="cpu")
    always(predictor, 1)
    images = canvases(scene_folder)
    context = predictor.context
    sam, pool, policy = context.answerer.sam, context.answerer.pool, context.answerer.policy
    assert policy is not None
    logits, found = context.segment(images)
    assert [one.image for one in found] == list(range(len(images)))
    for number, (image, own, one) in enumerate(zip(images, logits, found)):
        embedding = sam.encode(image[None])
        places = torch.tensor([[reference.place for reference in one.references]])
        # As while training: a box that is not there is two tokens of padding.
        nothing = Prompts(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2), PADDING))
        answer = sam.decode(sam.recall(embedding, pool.memory(places)), nothing)
        torch.testing.assert_close(own[1], answer.best[0, 0], rtol=1e-3, atol=1e-3)
        assert (own[0] == 0).all()
        assert one.iou == pytest.approx(float(answer.best_iou), abs=1e-4)
        assert (one.image, one.category) == (number, 1)
        assert (pool.tensors["category"][places] == 1).all()
        left = embedding.low[..., :2].mean((2, 3))[0]
        for reference in one.references:
            nearness = torch.cosine_similarity(left, pool.tensors["foreground"][reference.place], dim=0)
            assert reference.object_similarity == pytest.approx(float(nearness), abs=1e-2)
            assert reference.probability is not None
            assert 0 < reference.probability <= 1


@torch.no_grad()
def test_with_an_index_of_the_pool_the_answer_is_the_same(
    run: Path, scene_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    images, answers = canvases(scene_folder), []
    for large in (10_000, 2):
        monkeypatch.setattr(pool, "LARGE", large)
        predictor = api.load(run, in_context=True, looks=0, device="cpu")
        assert (predictor.context.answerer.pool.index is not None) == (large == 2)
        always(predictor, 2)
        answers.append(predictor.context.segment(images))
    torch.testing.assert_close(answers[0][0], answers[1][0], rtol=1e-4, atol=1e-5)
    for one, other in zip(answers[0][1], answers[1][1], strict=True):
        assert [r.place for r in one.references] == [r.place for r in other.references]
        # Given the same choice before it, and the same others to choose from.
        assert [r.probability for r in one.references] == pytest.approx([r.probability for r in other.references])


def test_a_batch_is_its_images_one_by_one(run: Path, scene_folder: Path, monkeypatch: pytest.MonkeyPatch):
    predictor = api.load(run, in_context=True, device="cpu")
    images = canvases(scene_folder)
    always(predictor, 2)
    together, found = predictor.context.segment(images)
    monkeypatch.setattr(in_context, "AT_ONCE", 1)
    alone = [predictor.context.segment(image[None]) for image in images]
    torch.testing.assert_close(together, torch.cat([logits for logits, _ in alone]), rtol=1e-3, atol=1e-3)
    assert [[r.place for r in one.references] for one in found] == [
        [r.place for r in f[0].references] for _, f in alone
    ]


def test_the_policy_looks_before_it_chooses(run: Path, scene_folder: Path, monkeypatch: pytest.MonkeyPatch):
    images = canvases(scene_folder)
    usual = api.load(run, in_context=True, looks=3, device="cpu").signature
    tried: list[torch.Tensor] = []

    def last(
        predict_masks: PredictMasks, places: torch.Tensor, at_once: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tried.append(places)
        logits, iou = predict_masks(torch.arange(len(places)), places[:, -1])
        assert (logits.shape, iou.shape) == ((len(places), 16, 16), (len(places),))
        return torch.full((len(places),), places.shape[1] - 1), logits, iou

    monkeypatch.setattr(selection, "most_promising", last)
    chosen = {}
    for looks in (0, 5):
        predictor = api.load(run, in_context=True, looks=looks, device="cpu")
        always(predictor, 1)
        assert predictor.signature != usual
        _, found = predictor.context.segment(images)
        chosen[looks] = torch.tensor([[reference.place for reference in one.references] for one in found])
    (sets,) = tried
    assert sets.shape[:2] == (len(images), 5)
    assert torch.equal(chosen[5], sets[:, -1])
    assert torch.equal(chosen[0], sets[:, 0])


@torch.no_grad()
def test_the_validation_images_decide_whether_the_policy_looks(trained: Trainer, monkeypatch: pytest.MonkeyPatch):
    assert trained.policy is not None
    assert trained.val_loader is not None
    usual = replace(trained.policy.settings, looks=5)
    monkeypatch.setattr(trained.policy, "settings", usual)
    batches = list(trained.val_loader.ordered())

    def answers(right: bool) -> None:
        """Of SAM: the true masks of every batch with looking, and nothing without; or the other way round."""

        def segment(_, images: torch.Tensor, embedding: object, *, look: bool) -> tuple[torch.Tensor, list]:
            (target,) = (batch.target for batch in batches if torch.equal(batch.images, images))
            masks = target * (target < len(trained.categories)) * (look == right)
            return 20 * torch.nn.functional.one_hot(masks, len(trained.categories)).permute(0, 3, 1, 2).float(), []

        monkeypatch.setattr(in_context.InContextSegmenter, "segment", segment)

    answers(right=True)
    scores = trained.decide_looks()
    assert scores["looking"] > scores["unseen"] + 0.2
    assert trained.policy.settings == usual
    answers(right=False)
    assert trained.decide_looks() == {"looking": scores["unseen"], "unseen": scores["looking"]}
    assert trained.policy.settings == replace(usual, looks=0)
    assert trained.policy.description()["looks"] == 0


@torch.no_grad()
def test_the_masks_that_decide_are_those_of_the_exported_model(trained: Trainer, run: Path):
    """With and without looking; but for what float16 rounds in the exported SAM."""
    assert trained.val_loader is not None
    for batch in trained.val_loader.ordered():
        for masks, looks in zip(
            trained.masks_in_context(batch, trained.teacher.model), (selection.PolicySettings.looks, 0), strict=True
        ):
            model = api.load(run, in_context=True, looks=looks, device="cpu")
            logits, _ = model.context.segment(batch.images)
            expected = in_context.resize(logits, trained.config.size).argmax(1)
            assert (masks == expected).float().mean() > 0.99


def test_the_time_of_deciding_is_measured_on_what_the_labels_name(trained: Trainer, monkeypatch: pytest.MonkeyPatch):
    sought = []

    def masks_in_context(batch: Batch, segmenter: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        seen = segmenter(batch.images).softmax(1)
        sought.append((trained.labeller.query_categories(replace(batch, kinds=0 * batch.kinds), seen), batch.present))
        return []

    monkeypatch.setattr(trained, "masks_in_context", masks_in_context)
    assert report._seconds_in_context(trained) > 0
    ((found, named),) = sought
    assert torch.equal(found[:, 1:] > 0, named[:, 1:] > 0)
    assert found.any()


def test_a_model_without_a_policy_can_look_too(scene_folder: Path, tmp_path: Path, tiny_sam_folder: Path):
    run = samix.main(
        settings(scene_folder, tmp_path / "run", tiny_sam_folder, selector="similar-foreground", steps=1, warm_up=0)
    )
    signatures, chosen = set(), {}
    for looks in (None, 0, 1, 12):
        predictor = api.load(run, in_context=True, looks=looks, device="cpu")
        always(predictor, 1)
        signatures.add(predictor.signature)
        _, found = predictor.context.segment(canvases(scene_folder))
        chosen[looks] = [[reference.place for reference in one.references] for one in found]
    assert chosen[None] == chosen[0] == chosen[1]
    assert chosen[12] != chosen[0]
    assert len(signatures) == 3


def test_what_the_segmenter_does_not_see_is_not_asked_for(run: Path, scene_folder: Path):
    predictor = api.load(run, in_context=True, device="cpu")
    always(predictor, None)
    predictions = list(predictor.predict(images_of(scene_folder)))
    assert not any(prediction.mask.any() for prediction in predictions)
    assert all(prediction.record()["references"] == [] for prediction in predictions)


@pytest.mark.parametrize("selector", ["random", "similar", "similar-foreground", "diverse", "policy"])
def test_every_selector_answers_and_tells(
    selector: SelectorName, scene_folder: Path, tmp_path: Path, tiny_sam_folder: Path
):
    config = settings(scene_folder, tmp_path / "run", tiny_sam_folder, selector=selector, steps=4, policy_warm_up=1)
    run = samix.main(config)
    predictor = api.load(run, in_context=True, references=3, device="cpu")
    always(predictor, 1)
    (prediction,) = predictor.predict(images_of(scene_folder)[:1])
    (found,) = prediction.record()["references"]
    assert found["category"] == predictor.categories[1]
    assert len(found["chosen"]) == 3
    train = {sample.id: sample for sample in Dataset.load(scene_folder).split("train")}
    for one in found["chosen"]:
        assert train[one["image"]].labels.kind > Kind.TAG
        assert -1.001 <= one["similarity"] <= 1.001
        assert ("probability" in one) == (selector == "policy")


def test_the_command_writes_masks_an_index_and_a_page(run: Path, scene_folder: Path, tmp_path: Path, capsys):
    images, out = images_of(scene_folder), tmp_path / "out"
    command = ["predict", str(run), *map(str, images), "--out", str(out), "--device", "cpu"]
    assert main([*command, "--in-context", "--references", "1"]) == 0
    assert f"{len(images)} images predicted" in capsys.readouterr().out
    index = json.loads((out / "predictions.json").read_text())
    page = (out / "references.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    for row in index["images"]:
        assert read_mask(out / row["mask"]).shape == (64, 64)
        for found in row["references"]:
            assert len(found["chosen"]) == 1
            assert found["chosen"][0]["image"] in page
    # Everything is there already; another number of references, or the segmenter, would be mixed with it.
    assert main([*command, "--in-context", "--references", "1"]) == 0
    assert f"0 images predicted, {len(images)} were there already" in capsys.readouterr().out
    for other in (["--in-context"], []):
        assert main([*command, *other]) == 1
        assert "another model" in capsys.readouterr().err


def test_evaluate_scores_what_predict_writes(run: Path, scene_folder: Path, tmp_path: Path, capsys):
    command = ["evaluate", str(run), str(scene_folder), "--device", "cpu"]
    assert main([*command, "--in-context"]) == 0
    written = run / "evaluation-test-in-context.json"
    assert str(written) in capsys.readouterr().out
    scores = json.loads(written.read_text())
    expected = api.evaluate(api.load(run, in_context=True, device="cpu"), Dataset.load(scene_folder))
    assert scores["dice"] == expected["dice"]
    assert scores["model"] != api.load(run, device="cpu").signature
    written.unlink()


def test_mistakes_are_told(run: Path, scene_folder: Path, tmp_path: Path, tiny_sam_folder: Path, capsys):
    image = str(images_of(scene_folder)[0])
    without = samix.main(settings(scene_folder, tmp_path / "without", tiny_sam_folder, pseudo="none", steps=1))
    for options, message in {
        (str(without), "--in-context"): "no reference pool",
        (str(run), "--in-context", "--references", "0"): "must be at least 1",
        (str(run), "--in-context", "--flip"): "--flip",
        (str(run), "--references", "2"): "give --in-context too",
        (str(run), "--looks", "2"): "give --in-context too",
        (str(run), "--in-context", "--looks", "-1"): "must be 0 or more",
    }.items():
        assert main(["predict", options[0], image, "--out", str(tmp_path / "out"), *options[1:]]) == 1
        told = capsys.readouterr().err
        assert message in told
        assert "Traceback" not in told


def changed(run: Path, folder: Path, **settings: object) -> Path:
    """A copy of the model with other settings of its in-context side."""
    shutil.copytree(run / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    config["in_context"] |= settings
    seal(folder, config)
    return folder


def test_settings_that_do_not_fit_are_told(run: Path, tmp_path: Path):
    for number, (name, value, message) in enumerate(
        [
            ("selector", "best", "in_context.selector: must be one of"),
            ("frozen", "0", "is not the one that this model was trained with"),
            ("names", [], "in_context.names: must be a list"),
            ("names", ["a"], "does not fit to config"),
            ("policy", {}, "in_context.policy.channels: is missing"),
        ]
    ):
        folder = changed(run, tmp_path / str(number), **{name: value})
        with pytest.raises(WeightsError, match=message):
            api.load(folder, in_context=True)


def test_damaged_and_older_folders_are_told(run: Path, tmp_path: Path):
    folder = changed(run, tmp_path / "model")
    tensors = load_file(folder / "sam.safetensors")
    save_file(tensors | {"extra": torch.zeros(1)}, folder / "sam.safetensors")
    seal(folder)
    with pytest.raises(WeightsError, match="1 unexpected: extra"):
        api.load(folder, in_context=True)
    save_file(tensors, folder / "sam.safetensors")
    (folder / "pool.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"pool.safetensors missing since the model was exported"):
        api.load(folder, in_context=True)
    seal(folder)
    with pytest.raises(WeightsError, match="no such file"):
        api.load(folder, in_context=True)
    config = json.loads((folder / "config.json").read_text())
    del config["in_context"]
    seal(folder, config)
    with pytest.raises(MaskwrightError, match="older maskwright"):
        api.load(folder, in_context=True)
    assert api.load(folder).categories == ("background", "disc", "figure")


def test_a_large_pool_is_cut_to_its_share(trained: Trainer):
    pool = trained.labeller.pool.tensors
    each = pool["features"][0].nbytes
    kept = in_context_files._places_within(pool, 4 * each)
    assert len(kept) == 4
    categories = pool["category"][kept].tolist()
    assert sorted(categories) == [1, 1, 2, 2]
    for category in (1, 2):
        mine = pool["kind"][kept][pool["category"][kept] == category]
        rest = pool["kind"][pool["category"] == category]
        assert mine.sort(descending=True).values.tolist() == rest.sort(descending=True).values[:2].tolist()
    assert len(in_context_files._places_within(pool, 0)) == 2
    assert len(in_context_files._places_within(pool, 1 << 30)) == len(trained.labeller.pool)


def test_a_new_training_starts_from_this_one(run: Path, scene_folder: Path, tmp_path: Path, tiny_sam_folder: Path):
    config = settings(scene_folder, tmp_path / "next", tiny_sam_folder, init=run, selector="policy")
    trainer = started(config, Trainer)
    model = run / "model"
    for network in (trainer.segmenter, trainer.teacher.model, trainer.best.modules["teacher"]):
        assert same(network, model / "model.safetensors")
    assert trainer.policy is not None
    assert same(trainer.policy.net, model / "selector.safetensors")
    state, trained = trainer.sam.state_dict(), load_file(model / "sam.safetensors")
    assert all(torch.equal(state[name].half(), tensor) for name, tensor in trained.items())
    assert not trainer.labeller.pseudo_masks.newest
    description, digest = json.loads((model / "config.json").read_text()), trainer.session.data_digest
    assert description["data"] == description["in_context"]["data"] == digest
    assert json.loads((run / "pseudo" / "index.json").read_text())["data"] == digest
    with pytest.raises(WeightsError, match=r"its sam is another network .*--tune-decoder True"):
        started(replace(config, out=tmp_path / "x", tune_decoder=False), Trainer)
    assert not (tmp_path / "x").exists()


def test_a_run_without_a_model_gives_its_newest_checkpoint(
    scene_folder: Path, tmp_path: Path, tiny_sam_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    config = settings(scene_folder, tmp_path / "first", tiny_sam_folder, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Stopped):
            samix.main(config)
    trainer = started(replace(config, out=tmp_path / "next", init=tmp_path / "first"), Trainer)
    (checkpoint,) = (config.out / "last").iterdir()
    assert same(trainer.sam, checkpoint / "sam.safetensors")
    teacher = load_file(checkpoint / "teacher.safetensors")
    state = trainer.segmenter.state_dict()
    assert all(torch.equal(state[name.removeprefix("model.")], t) for name, t in teacher.items() if name != "updates")
