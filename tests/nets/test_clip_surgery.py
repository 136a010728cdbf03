"""CLIP Surgery on a tiny CLIP of random weights: against a slow reading of the paper, one image, head and place at a time."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, PreTrainedTokenizerFast

from maskwright.errors import DataError, WeightsError
from maskwright.nets.clip_surgery import ClipSurgery, similarities, stretch, surgery_tokens, value_attention

WORDS = ("a", "photo", "of", "cat", "dog", "red")
TEMPLATES = ("a photo of a {}", "{}")


def word_tokenizer() -> PreTrainedTokenizerFast:
    special = ("<s>", "<e>", "<?>", "<p>")
    vocabulary = {word: place for place, word in enumerate((*special, *WORDS))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<?>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+"), behavior="removed", invert=True)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A <e>", special_tokens=[("<s>", 0), ("<e>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<e>", unk_token="<?>", pad_token="<p>"
    )


def tiny_clip(layers: int = 8) -> CLIPModel:
    torch.manual_seed(3)
    common = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "projection_dim": 12}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 3}
    text = {"vocab_size": 40, "max_position_embeddings": 10, "num_hidden_layers": 2}
    vision = {"image_size": 24, "patch_size": 8, "num_hidden_layers": layers}
    model = CLIPModel(CLIPConfig(text_config=text | ids | common, vision_config=vision | common, projection_dim=12))
    for parameter in model.parameters():  # transformers starts with weights so small that any attention is uniform
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def clip() -> ClipSurgery:
    return ClipSurgery(tiny_clip(), word_tokenizer(), templates=TEMPLATES, name="tiny")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tiny_clip().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    (folder / "templates.json").write_text(json.dumps(TEMPLATES))
    return folder


def slow_tokens(model, pixels: torch.Tensor, depth: int) -> torch.Tensor:
    """One image (3,S,S): hooks note what enters each of the model's own blocks, the second stream is added up from that."""
    entered, vision = [], model.vision_model
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0][0]))
        for block in vision.encoder.layers
    ]
    output = vision(pixels[None])
    for hook in hooks:
        hook.remove()
    new = entered[-depth].clone()
    for block, hidden in zip(vision.encoder.layers[-depth:], entered[-depth:]):
        attention = block.self_attn
        values = attention.v_proj(block.layer_norm1(hidden))
        heads = []
        for head in range(attention.num_heads):
            part = values[:, head * attention.head_dim : (head + 1) * attention.head_dim]
            places = []
            for query in part:
                weight = torch.tensor([float(query @ key) / attention.head_dim**0.5 for key in part]).exp()
                places.append((weight[:, None] * part).sum(0) / weight.sum())
            heads.append(torch.stack(places))
        new = new + attention.out_proj(torch.cat(heads, 1))
    tokens = torch.cat([output.last_hidden_state[0, :1], new[1:]])
    return model.visual_projection(vision.post_layernorm(tokens))


@torch.no_grad()
@pytest.mark.parametrize(("layers", "depth"), [(8, 6), (3, 3)])
def test_tokens_equal_a_slow_reading_of_the_paper(images, layers: int, depth: int) -> None:
    model = tiny_clip(layers)
    fast = surgery_tokens(model, images)
    for row, image in enumerate(images):
        torch.testing.assert_close(fast[row], slow_tokens(model, image, depth), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_value_attention_by_hand() -> None:
    """Two tokens, one head, identity projections: each takes softmax of its products with itself and the other."""
    attention = tiny_clip().vision_model.encoder.layers[0].self_attn
    attention.num_heads, attention.scale = 1, 1.0
    for layer in (attention.v_proj, attention.out_proj):
        layer.weight.copy_(torch.eye(16))
        layer.bias.zero_()
    hidden = torch.zeros(1, 2, 16)
    hidden[0, 0, 0], hidden[0, 1, 1] = 1.0, 2.0
    mixed = value_attention(attention, hidden)
    e = torch.e
    assert mixed[0, 0, :2].tolist() == pytest.approx([e / (e + 1), 2 / (e + 1)], rel=1e-5)
    assert mixed[0, 1, :2].tolist() == pytest.approx([1 / (e**4 + 1), 2 * e**4 / (e**4 + 1)], rel=1e-5)
    assert not mixed[..., 2:].any()


@torch.no_grad()
def test_class_token_is_that_of_the_model_itself_and_the_model_stays_as_it_was(clip, images) -> None:
    pixels = (images - clip.mean) / clip.std
    before = clip.model(input_ids=torch.tensor([[0, 4, 1]]), pixel_values=pixels)
    weights = copy.deepcopy(clip.model.state_dict())
    clip.maps(images, ["cat", "dog"])
    tokens = clip.encode_images(images)
    torch.testing.assert_close(tokens[:, 0], F.normalize(clip.model.get_image_features(pixels).pooler_output, dim=-1))
    after = clip.model(input_ids=torch.tensor([[0, 4, 1]]), pixel_values=pixels)
    assert torch.equal(before.logits_per_image, after.logits_per_image)
    assert torch.equal(before.vision_model_output.last_hidden_state, after.vision_model_output.last_hidden_state)
    assert all(torch.equal(value, weights[name]) for name, value in clip.model.state_dict().items())
    assert not any(p.requires_grad for p in clip.parameters())


@torch.no_grad()
def test_a_batch_is_its_images_one_by_one(clip, images) -> None:
    for names in (["cat"], ["cat", "dog", "red"]):
        together = clip.maps(images, names)
        assert together.shape == (3, len(names), 3, 3)
        alone = torch.cat([clip.maps(image[None], names) for image in images])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
        assert together.amin() == 0.0
        assert together.amax() == 1.0


def test_scores_of_several_texts_by_hand() -> None:
    """Two texts at right angles, one place that looks like the first: class token alike to both, so both weights are 1."""
    tokens = torch.tensor([[[0.6, 0.6], [1.0, 0.0]]])
    texts = torch.eye(2)
    scores = similarities(tokens, texts)
    assert scores.flatten().tolist() == pytest.approx([0.5, -0.5])
    # A class token that is all the first text: w = softmax(2, 0) / its mean.
    tokens[0, 0] = torch.tensor([1.0, 0.0])
    weight = 2 * torch.tensor([2.0, 0.0]).softmax(0)
    expected = torch.tensor([weight[0] / 2, -weight[0] / 2])
    assert similarities(tokens, texts).flatten().tolist() == pytest.approx(expected.tolist())


def test_score_of_one_text_by_hand() -> None:
    tokens, empty = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]), torch.tensor([[0.8, 0.6]])
    assert float(similarities(tokens, torch.tensor([[0.0, 1.0]]), empty)) == pytest.approx(0.8 - (0.48 + 0.48))
    with pytest.raises(ValueError, match="single text"):
        similarities(tokens, torch.tensor([[0.0, 1.0]]))


@torch.no_grad()
def test_several_texts_share_nothing_and_one_text_stands_alone(clip, images) -> None:
    texts = clip.encode_texts(["cat", "dog", "red"])
    tokens = clip.encode_images(images)
    torch.testing.assert_close(similarities(tokens, texts).sum(1), torch.zeros(3, 3, 3), atol=1e-6, rtol=0)
    assert not torch.allclose(clip.maps(images, ["cat", "dog"])[:, 0], clip.maps(images, ["cat", "red"])[:, 0])
    by_itself = clip.maps(images, ["dog", "cat"], "empty")[:, 1]
    torch.testing.assert_close(by_itself, clip.maps(images, ["cat"])[:, 0])
    alone = tokens[:, 1:] @ (clip.encode_texts(["cat"]) - clip.encode_sentences([""])).T
    torch.testing.assert_close(clip.maps(images, ["cat"])[:, 0], stretch(alone[..., 0].unflatten(1, (3, 3))))


@settings(max_examples=30, deadline=None)
@given(value=st.floats(-5, 5), scale=st.floats(1e-3, 1e3))
def test_stretched_maps(value: float, scale: float) -> None:
    assert torch.equal(stretch(torch.full((2, 3, 4), value)), torch.zeros(2, 3, 4))
    maps = torch.stack([torch.tensor([[0.0, 1.0], [0.5, 0.25]]) * scale + value, torch.full((2, 2), value)])
    torch.testing.assert_close(stretch(maps)[0], torch.tensor([[0.0, 1.0], [0.5, 0.25]]), atol=2e-3, rtol=0)
    assert not stretch(maps)[1].any()


@torch.no_grad()
def test_ensemble_is_the_mean_of_normalised_sentences(clip) -> None:
    def alone(sentence: str) -> torch.Tensor:
        ids = torch.tensor([clip.tokenizer(sentence)["input_ids"]])
        return F.normalize(clip.model.get_text_features(ids).pooler_output[0], dim=-1)

    for name in ("cat", "red dog", ""):
        expected = F.normalize(torch.stack([alone(t.format(name)) for t in TEMPLATES]).mean(0), dim=-1)
        torch.testing.assert_close(clip.encode_sentences([name])[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_any_size_of_image_and_of_canvas(clip) -> None:
    """Images are squashed, nothing is cut off; a larger canvas gives a finer map by interpolated position codes."""
    wide = torch.rand(2, 3, 40, 70)
    squashed = F.interpolate(wide, (24, 24), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(clip.encode_images(wide), clip.encode_images(squashed))
    fine = ClipSurgery(tiny_clip(), word_tokenizer(), size=40)
    assert fine.maps(wide, ["cat"]).shape == (2, 1, 5, 5)
    with pytest.raises(DataError, match="50 is not a multiple of this CLIP's patches of 8"):
        ClipSurgery(tiny_clip(), word_tokenizer(), size=50)


@pytest.mark.parametrize(
    ("names", "messages"),
    [
        ([], ["no text is given"]),
        (["  ", ""], ["text 1 is empty", "text 2 is empty"]),
        (["\u200b"], ["'\\u200b' has no word"]),
        (["cat", "cat"], ["'cat' is given twice"]),
        (["red cow"], ["does not know 'cow', only a, cat, dog, of, photo, red", "openai/clip-vit-base-patch16"]),
        (["cat", "a red red red red cat"], ["12 tokens in its longest sentence, tiny reads 10"]),
    ],
)
def test_texts_that_cannot_be_read(clip, names, messages) -> None:
    for act in (clip.check_names, clip.encode_texts, lambda names: clip.maps(torch.zeros(1, 3, 24, 24), names)):
        with pytest.raises(DataError) as caught:
            act(names)
        assert all(message in str(caught.value) for message in messages), str(caught.value)


def test_a_vocabulary_that_spells_out_any_word(folder: Path) -> None:
    """The tokenizer of the published models: bytes and merges. Its unknown token is its end token, which no text gives."""
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(f"{c}</w>" for c in alphabet)]
    tokenizer = CLIPTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, merges=[])
    clip = ClipSurgery(tiny_clip(), tokenizer, templates=["{}"])
    clip.check_names(["cow", "gnu"])
    with pytest.raises(DataError, match=r"21 tokens .* reads 10; shorten it"):
        clip.check_names(["hippopotamus amphibi"])


# ------------------------------------------------------------------------------------------------------ loading


@torch.no_grad()
def test_load_from_a_folder(clip, folder: Path, images) -> None:
    loaded = ClipSurgery.load(folder)
    assert loaded.templates == TEMPLATES
    assert torch.equal(loaded.maps(images, ["cat"]), clip.maps(images, ["cat"]))
    assert ClipSurgery.load(folder, size=40).grid == 5


def copy_of(folder: Path, path: Path) -> Path:
    path.mkdir()
    for file in folder.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def test_old_checkpoints_with_position_ids(folder: Path, tmp_path: Path) -> None:
    old = copy_of(folder, tmp_path / "old")
    tensors = load_file(old / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = torch.arange(10)[None]
    save_file(tensors, old / "model.safetensors", metadata={"format": "pt"})
    ClipSurgery.load(old)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"PK\x03\x04 pickle"), "pickles are never loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"nonsense"), "cannot load this CLIP"),
        (lambda f: (f / "tokenizer.json").unlink(), "cannot load this CLIP"),
        (lambda f: (f / "templates.json").write_text('["no gap"]'), "expected a list of sentences"),
        (lambda f: (f / "templates.json").write_text("["), "not valid JSON"),
        (lambda f: drop_a_tensor(f / "model.safetensors"), "missing keys: visual_projection.weight"),
    ],
)
def test_damaged_folders(folder: Path, tmp_path: Path, damage, message: str) -> None:
    broken = copy_of(folder, tmp_path / "broken")
    damage(broken)
    with pytest.raises(WeightsError, match=message):
        ClipSurgery.load(broken)


def drop_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["visual_projection.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such folder"):
        ClipSurgery.load(tmp_path / "nowhere")
