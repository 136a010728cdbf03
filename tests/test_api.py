"""The public functions: models from disk, predictions on images of every kind, scores against hand-worked ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import maskwright
from maskwright import api
from maskwright.data import image_files
from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.images import read_image
from maskwright.data.labels import Labels, Mask, Sample
from maskwright.data.mask_files import read_mask
from maskwright.engine import predictor as predictor_module
from maskwright.engine.prediction import pixels_of
from maskwright.engine.predictor import Predictor
from maskwright.errors import DataError, MaskwrightError, WeightsError
from tests.tiny_model import CATEGORIES, Colours, predictor, save_run, seal, tiny_segmenter

torch.set_num_threads(1)
RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (120, 120, 120)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def colours() -> Predictor:
    return predictor(Colours())


def halves(width: int = 80, height: int = 48) -> np.ndarray:
    """Red on the left, blue on the right, grey in the lower half."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = RED, BLUE
    image[height // 2 :] = GREY
    return image


# ------------------------------------------------------------------------------------------------------------- load


def test_a_loaded_model_computes_what_the_saved_one_did(run: Path):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for path in (run, run / "model"):
        model = api.load(path, device="cpu")
        assert model.categories == CATEGORIES
        assert (model.size, model.recipe) == (64, "samix")
        with torch.no_grad():
            torch.testing.assert_close(model.network(images), tiny_segmenter().eval()(images))
    assert api.load(run).signature == api.load(run / "model").signature


def test_the_signature_follows_weights_and_configuration(run: Path, tmp_path: Path):
    other = save_run(tmp_path / "weights", tiny_segmenter(seed=1))
    renamed = save_run(tmp_path / "names", categories=["background", "a", "b"])
    assert len({api.load(path, device="cpu").signature for path in (run, other, renamed)}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "the format is 'other'"),
        ({"version": 3}, "version 3 of the model format, this maskwright reads 1, 2"),
        ({"categories": ["background"]}, "categories: must be a list of 2 to 255"),
        ({"categories": ["background", "a", "a"]}, "categories: a name is there twice"),
        ({"recipe": "magic"}, "recipe must be one of: samix"),
        (
            {"size": "64", "data": 1},
            r"2 fields are wrong:\n  - size: must be a multiple of 32.*\n  - data: must be a text",
        ),
        ({"segmenter": {"type": "unknown"}}, "'unknown' is an unknown segmenter type"),
        ({"segmenter": {"type": "sam", "width": 64}}, "segmenter.encoder: is missing"),
        ({"categories": ["background", "a"]}, r"model\.safetensors does not fit"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(run: Path, tmp_path: Path, change: dict, message: str):
    path = tmp_path / "model"
    path.mkdir()
    config = json.loads((run / "model" / "config.json").read_text())
    (path / "model.safetensors").hardlink_to(run / "model" / "model.safetensors")
    seal(path, config | change)
    with pytest.raises(WeightsError, match=message) as caught:
        api.load(path)
    if "unknown" not in message:
        assert any(word in str(caught.value) for word in ("restore", "Restore", "give a run", "train again"))


def test_foreign_and_missing_tensors_are_all_named(run: Path, tmp_path: Path):
    path = save_run(tmp_path / "run") / "model" / "model.safetensors"
    tensors = load_file(path)
    del tensors["head.weight"]
    save_file(tensors | {"extra.one": torch.zeros(1), "extra.two": torch.zeros(1)}, path)
    seal(path.parent)
    with pytest.raises(WeightsError, match=r"(?s)1 missing: head\.weight.*2 unexpected: extra\.one, extra\.two"):
        api.load(tmp_path / "run")


def test_paths_without_a_model_are_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match="no such folder"):
        api.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="is a file"):
        api.load(tmp_path / "file")
    with pytest.raises(WeightsError, match=r"config\.json and model\.safetensors missing"):
        api.load(tmp_path)
    (tmp_path / "last").mkdir()
    with pytest.raises(WeightsError, match=r"no model yet.*--resume"):
        api.load(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="not valid JSON"):
        api.load(tmp_path)


def test_a_device_that_is_not_here_is_an_error(run: Path):
    with pytest.raises(MaskwrightError, match="--device nonsense: not usable here"):
        api.load(run, device="nonsense")


# ---------------------------------------------------------------------------------------------------------- predict


def test_masks_lie_where_the_colours_are(colours: Predictor):
    (prediction,) = colours.predict(halves())
    expected = np.zeros((48, 80), np.uint8)
    expected[:24, :40], expected[:24, 40:] = 1, 2
    wrong = prediction.mask != expected
    wrong[21:27], wrong[:, 36:44] = False, False  # a cell of the logits on either side of a border
    assert not wrong.any()
    assert prediction.mask.dtype == np.uint8
    assert prediction.shares == pytest.approx({"background": 0.5, "red": 0.25, "blue": 0.25}, abs=0.03)
    assert set(prediction.scores) == set(CATEGORIES)
    assert all(0.9 < score <= 1 for score in prediction.scores.values())


def test_scores_are_the_mean_probability_of_what_was_predicted():
    network = Colours()
    with torch.no_grad():
        network.sharpness.fill_(2.0)
    model = predictor(network)
    (prediction,) = model.predict(np.full((20, 30, 3), RED, np.uint8))
    # Logits 0, 2 · (1 − 0.5) and 2 · (−1 − 0.5).
    expected = np.exp(1) / (1 + np.exp(1) + np.exp(-3))
    assert prediction.scores == {"red": pytest.approx(expected, abs=1e-4)}
    assert prediction.shares == {"red": 1.0}


def odd_images(folder: Path) -> dict[str, tuple[int, int]]:
    """Files of unusual modes and shapes: name → (height, width) as displayed."""
    rgb = Image.fromarray(halves(40, 24))
    turned = Image.Exif()
    turned[0x0112] = 6
    sizes = {}
    for name, image, extra in (
        ("bits.png", rgb.convert("1"), {}),
        ("deep.png", Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40) * 60), {}),
        ("alpha.png", rgb.convert("RGBA"), {}),
        ("palette.gif", rgb.convert("P"), {}),
        ("print.jpg", rgb.convert("CMYK"), {}),
        ("float.tif", Image.fromarray(np.linspace(0, 1, 960, dtype=np.float32).reshape(24, 40)), {}),
        ("turned.jpg", rgb, {"exif": turned, "quality": 95}),
        ("dot.png", Image.new("RGB", (1, 1), RED), {}),
        ("strip.png", Image.new("L", (2000, 3), 77), {}),
    ):
        image.save(folder / name, **extra)
        sizes[name] = (image.height, image.width) if name != "turned.jpg" else (40, 24)
    return sizes


def test_every_kind_of_file_gets_a_mask_of_its_displayed_size(colours: Predictor, run: Path, tmp_path: Path):
    sizes = odd_images(tmp_path)
    paths = [tmp_path / name for name in sizes]
    for model in (colours, api.load(run, device="cpu")):
        predictions = list(model.predict(paths, batch=4))
        assert [p.id for p in predictions] == [path.stem for path in paths]
        assert [p.mask.shape for p in predictions] == list(sizes.values())
        assert all(p.overlay().size == p.mask.shape[::-1] for p in predictions)
    turned = next(p for p in colours.predict([tmp_path / "turned.jpg"]))
    # Turned by a quarter clockwise: the left half, red and then grey below, comes to lie on top, grey to its left.
    assert turned.mask[5, 20] == 1
    assert turned.mask[35, 20] == 2
    assert not turned.mask[:, :8].any()


def test_pictures_and_arrays_give_what_their_file_gives(colours: Predictor, tmp_path: Path):
    for name in odd_images(tmp_path):
        path = tmp_path / name
        from_file, from_picture = (next(colours.predict(image)) for image in (path, Image.open(path)))
        np.testing.assert_array_equal(from_file.mask, from_picture.mask)
        assert from_picture.id == path.stem
        np.testing.assert_array_equal(pixels_of(Image.open(path), ""), read_image(path))
    arrays = [
        halves(),
        halves()[..., :1],
        halves()[..., 0],
        halves()[..., 0] > 9,
        np.dstack([halves(), halves()[..., :1]]),
    ]
    arrays += [halves()[..., 0].astype(np.uint16), halves()[..., 0] / 255]
    predictions = list(colours.predict(arrays))
    assert [p.id for p in predictions] == [str(i) for i in range(7)]
    assert {p.mask.shape for p in predictions} == {(48, 80)}


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), complex), np.zeros(4), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_images_are_refused(colours: Predictor, array: np.ndarray):
    with pytest.raises(DataError, match="image 0"):
        list(colours.predict(array))


def test_large_images_are_restored_in_strips_without_a_seam(colours: Predictor, monkeypatch: pytest.MonkeyPatch):
    image = np.random.default_rng(0).integers(0, 256, (150, 90, 3), dtype=np.uint8)
    (whole,) = colours.predict(image)
    monkeypatch.setattr(predictor_module, "_PIECE", 90 * 3 * 7)
    (strips,) = colours.predict(image)
    np.testing.assert_array_equal(whole.mask, strips.mask)
    assert strips.scores == pytest.approx(whole.scores, abs=1e-5)


def test_checking_and_predicting_take_turns_with_large_images(
    colours: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    Image.fromarray(halves()).save(tmp_path / "a.png")
    dataset = Dataset(tmp_path, CATEGORIES, (Sample("a", "a.png"),))
    works = (lambda: check(dataset, training=False), lambda: list(colours.predict(tmp_path / "a.png")))
    for limit, waits in ((48 * 80, False), (48 * 80 - 1, True)):
        monkeypatch.setattr(image_files, "LARGE", limit)
        for work in works:
            with ThreadPoolExecutor(1) as pool:
                with image_files.turn((1000, 1000)):
                    future = pool.submit(work)
                    _, unfinished = wait([future], timeout=0.3 if waits else 10)
                    assert bool(unfinished) == waits
                future.result(10)


def test_batches_and_flips_change_nothing_that_matters(colours: Predictor):
    images = [halves(60 + 10 * i, 40) for i in range(5)]
    one_by_one = [p.mask for p in colours.predict(images, batch=1)]
    for options in ({"batch": 2}, {"batch": 8, "workers": 1}, {"batch": 3, "flip": True}):
        for mask, prediction in zip(one_by_one, colours.predict(images, **options), strict=True):
            np.testing.assert_array_equal(mask, prediction.mask)


def test_flip_averages_the_logits_of_both_views(run: Path):
    model = api.load(run, device="cpu")
    canvas = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    plain, mirrored = model.logits(canvas), model.logits(canvas[:, :, ::-1].copy())
    torch.testing.assert_close(model.logits(canvas, flip=True), (plain + mirrored.flip(-1)) / 2)


def test_an_option_of_another_kind_of_model_is_refused(colours: Predictor):
    with pytest.raises(MaskwrightError, match=r"samix has no --in-context \(its options: --flip\)"):
        colours.predict(halves(), in_context=True)


def test_images_are_read_ahead_by_a_bounded_number(colours: Predictor):
    seen = 0

    def endless():
        nonlocal seen
        while True:
            seen += 1
            yield halves(16, 16)

    predictions = colours.predict(endless(), batch=2)
    for _ in range(5):
        next(predictions)
    predictions.close()
    assert seen < 20


def test_unreadable_images_stop_or_are_collected(colours: Predictor, tmp_path: Path):
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    Image.fromarray(halves()).save(good)
    broken.write_bytes(good.read_bytes()[:100])
    with pytest.raises(DataError, match=r"broken\.png"):
        list(colours.predict([good, broken]))
    problems: list[str] = []
    images = [broken, good, tmp_path / "absent.png", good]
    assert [p.id for p in colours.predict(images, unreadable=problems)] == ["good", "good"]
    assert ["broken.png" in problems[0], "absent.png" in problems[1], len(problems)] == [True, True, 2]
    with pytest.raises(ValueError, match="at least 1"):
        colours.predict(good, batch=0)


def test_a_prediction_is_saved_as_mask_and_overlay(colours: Predictor, tmp_path: Path):
    (prediction,) = colours.predict(halves())
    path = prediction.save(tmp_path, name="deep/one", side=20)
    assert path == tmp_path / "masks" / "deep" / "one.png"
    np.testing.assert_array_equal(read_mask(path), prediction.mask)
    assert Image.open(tmp_path / "overlays" / "deep" / "one.jpg").size == (20, 12)


# --------------------------------------------------------------------------------------------------------- evaluate


def scored_dataset(root: Path) -> Dataset:
    """Three test images: one as the network sees it, one with red missing, one with instances; categories reordered."""
    categories = ("background", "blue", "red")
    samples = []
    for name, kind in (("exact", "semantic"), ("lacking", "semantic"), ("instances", "instance")):
        Image.fromarray(halves()).save(root / f"{name}.png")
        mask = np.zeros((48, 80), np.uint8)
        (prediction,) = predictor(Colours()).predict(halves())
        mask[prediction.mask == 2], mask[prediction.mask == 1] = 1, 2
        if name == "lacking":
            mask[mask == 2] = 0
        if kind == "instance":
            mask[mask == 1], mask[mask == 2] = 9, 5
        Image.fromarray(mask).save(root / f"{name}-mask.png")
        label = Mask(f"{name}-mask.png", kind, {5: 2} if kind == "instance" else {})
        samples.append(Sample(name, f"{name}.png", "test", Labels(mask=label)))
    return Dataset(root, categories, tuple(samples), "made up")


def test_evaluation_against_hand_worked_scores(colours: Predictor, tmp_path: Path):
    calls: list[tuple[int, int]] = []
    scores = api.evaluate(colours, scored_dataset(tmp_path), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert [round(image["dice"], 6) for image in scores["per_image"]] == [1, 0.5, 1]
    assert scores["dice"] == pytest.approx(2.5 / 3)
    assert scores["per_category"]["blue"]["dice"] == 1
    assert scores["per_category"]["red"]["pooled_iou"] == pytest.approx(2 / 3)
    assert (scores["split"], scores["dataset"], scores["model"]) == ("test", "made up", "0" * 16)
    json.dumps(scores)


def test_what_keeps_a_split_from_being_scored_is_listed_at_once(colours: Predictor, tmp_path: Path):
    dataset = scored_dataset(tmp_path)
    bare = [Sample(f"bare{i}", "exact.png", "test") for i in range(2)]
    odd = Dataset(dataset.root, ("background", "blue", "green"), dataset.samples + tuple(bare))
    with pytest.raises(DataError) as caught:
        api.evaluate(colours, odd)
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "the model has 'red', the dataset does not and the dataset has 'green', the model does not" in text
    assert "bare0" in text
    assert "bare1" in text
    with pytest.raises(DataError, match=r"split 'val' is empty \(splits: 'test'\)"):
        api.evaluate(colours, dataset, "val")


# ------------------------------------------------------------------------------------------------------ whole folders


def test_predict_fills_a_folder_and_goes_on_with_it(run: Path, tmp_path: Path):
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(halves()).save(folder / f"{name}.png")
    summary = api.predict(str(run), str(folder), str(out), device="cpu")
    assert (summary.predicted, summary.skipped, summary.problems, summary.written) == (2, 0, [], [])
    model, calls = api.load(run, device="cpu"), []
    for prediction in model.predict([folder / "a.png", folder / "b.png"]):
        np.testing.assert_array_equal(read_mask(out / "masks" / f"{prediction.id}.png"), prediction.mask)
    Image.fromarray(halves()).save(folder / "c.png")
    (folder / "broken.png").write_bytes(b"no image")
    summary = maskwright.predict(model, [folder], out, overlays=False, progress=lambda *call: calls.append(call))
    assert (summary.predicted, summary.skipped) == (1, 2)
    assert ["broken.png" in problem for problem in summary.problems] == [True]
    assert calls == [(1, 2), (2, 2)]
    assert not (out / "overlays" / "c.jpg").exists()


def test_predict_refuses_what_the_model_cannot_do(run: Path, tmp_path: Path):
    image = tmp_path / "a.png"
    Image.fromarray(halves()).save(image)
    with pytest.raises(MaskwrightError, match="has no --threshold"):
        api.predict(run, image, tmp_path / "out", threshold=0.5)
    with pytest.raises(MaskwrightError, match="--looks: is about references in context"):
        api.predict(run, image, tmp_path / "out", looks=3)
    with pytest.raises(MaskwrightError, match="no reference pool"):
        api.predict(run, image, tmp_path / "out", in_context=True)
    with pytest.raises(MaskwrightError, match="has no --in-context"):  # it is loaded already
        api.predict(api.load(run), image, tmp_path / "out", in_context=True)
    assert not (tmp_path / "out").exists()


def test_scores_are_kept_beside_the_model_but_not_in_it(run: Path, tmp_path: Path):
    model = api.load(run, device="cpu")
    assert model.scores_path(run, "test") == run / "evaluation-test.json"
    assert model.scores_path(run, "a/b") == run / "evaluation-a_b.json"
    assert model.scores_path(run / "model", "test") is None
    dataset, file = scored_dataset(tmp_path), tmp_path / "scores.json"
    scores = api.evaluate(predictor(Colours()), dataset, json=file)
    assert json.loads(file.read_text()) == scores


# ------------------------------------------------------------------------------------------------- data, SAM, progress


def test_check_tells_problems_and_what_is_there(scene_folder: Path, tmp_path: Path):
    calls: list[tuple[int, int]] = []
    result = maskwright.check(scene_folder, progress=lambda done, total: calls.append((done, total)))
    assert (result.problems, result.images, result.splits) == ([], 18, {"train": 12, "val": 2, "test": 4})
    assert result.categories == ("background", "disc", "figure")
    assert calls[-1] == (18, 18)
    train = Dataset.load(scene_folder).split("val")
    assert any("split 'train' is empty" in problem for problem in maskwright.check(train).problems)
    assert maskwright.check(train, training=False).problems == []
    (problem,) = maskwright.check(tmp_path / "nowhere").problems
    assert "nowhere" in problem


def test_a_sam_is_named_by_its_source(tiny_sam_folder: Path, scene_folder: Path, tmp_path: Path):
    facts = maskwright.sam_info(tiny_sam_folder, device="cpu")
    assert (facts["size"], facts["device"]) == (64, "cpu")
    store = tmp_path / "store"
    assert maskwright.precompute(str(tiny_sam_folder), scene_folder, store, device="cpu") == (18, 0)
    assert maskwright.precompute(tiny_sam_folder, Dataset.load(scene_folder), store, device="cpu") == (0, 18)
    scores = api.sam_evaluate(tiny_sam_folder, scene_folder, limit=1, clicks=1, device="cpu")
    table = api.sam_score_table(scores)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert re.search(rf": {scores['objects']} objects? in 1 image$", table.title)


def test_progress_is_a_bar_on_a_terminal_of_the_main_process(capsys, monkeypatch: pytest.MonkeyPatch):
    from maskwright.api.progress import progress_of

    def told(progress: Any) -> str:
        with progress_of(progress, "counting") as call:
            for done in (1, 2):
                if call:
                    call(done, 2)
        return capsys.readouterr().err

    assert told(True) == ""  # the first line of a log comes after 30 seconds
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "counting" in told(True)
    assert "100%" in told(True)
    assert told(False) == ""
    calls: list[tuple[int, int]] = []
    assert told(lambda done, total: calls.append((done, total))) == ""
    assert calls == [(1, 2), (2, 2)]
    monkeypatch.setenv("RANK", "1")
    assert told(True) == ""


# ---------------------------------------------------------------------------------------------------- train, package


def test_wrong_settings_are_named_before_anything_starts():
    with pytest.raises(MaskwrightError, match=r"no recipe 'samx'; choose one of: samix"):
        api.train("samx", data="a", out="b")
    with pytest.raises(MaskwrightError, match=r"'minuts' is no setting; did you mean 'minutes'.*'out' must be given"):
        api.train("samix", data="a", minuts=3)


def test_text_becomes_what_a_setting_wants(monkeypatch: pytest.MonkeyPatch):
    from maskwright.recipes import alignsam, s4m

    for module in (alignsam, s4m):
        monkeypatch.setattr(module, "main", lambda config: config)
    found: Any = api.train("s4m", data="data", out="run", stage="student", teacher="runs/teacher", sam="nano")
    assert (found.data, found.out, found.teacher) == (Path("data"), Path("run"), Path("runs/teacher"))
    assert found.sam == "nano"
    found = api.train("alignsam", data=Path("data"), out="run", text="disc")
    assert found.text == ("disc",)


def test_settings_reach_the_recipe(monkeypatch: pytest.MonkeyPatch):
    from maskwright.recipes import samix

    monkeypatch.setattr(samix, "main", lambda config: config)
    config = api.train("samix", data="a", out="b", steps=7)
    assert (config.data, config.out, config.steps) == (Path("a"), Path("b"), 7)  # type: ignore[attr-defined]


def test_public_names_are_there_and_others_are_not():
    assert maskwright.load is api.load
    assert set(maskwright.__all__) <= set(dir(maskwright))
    for name in maskwright.__all__:
        assert getattr(maskwright, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        maskwright.nonsense  # noqa: B018


def test_importing_the_package_does_not_import_torch():
    code = "import sys, maskwright, maskwright.cli; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
