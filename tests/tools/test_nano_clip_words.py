"""The words of nano-clip: every sentence it is told is in its vocabulary, and says what is to be seen."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from tokenizers import Tokenizer

from maskwright.data.scenes import render
from maskwright.nets.clip_surgery import NANO_CLIP


@pytest.fixture
def words(script: Callable[[str, str], ModuleType]) -> ModuleType:
    return script("tools", "nano_clip_words")


def test_the_bundled_tokenizer_has_these_words(words: ModuleType) -> None:
    tokenizer = words.make_tokenizer()
    assert tokenizer.get_vocab() == Tokenizer.from_file(str(NANO_CLIP / "tokenizer.json")).get_vocab()
    ids = tokenizer("A Photo, of a LEAF; and a zebra.")["input_ids"]
    known = ["a", "photo", "of", "a", "leaf", "and", "a"]
    assert tokenizer.convert_ids_to_tokens(ids) == [words.BEGIN, *known, words.UNKNOWN, words.END]


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0.02, 0.02, 0.02), "black"),
        ((0.5, 0.5, 0.5), "grey"),
        ((0.95, 0.95, 0.95), "white"),
        ((0.9, 0.1, 0.1), "red"),
        ((0.9, 0.1, 0.15), "red"),  # from below 360 degrees
        ((0.4, 0.22, 0.05), "brown"),
        ((0.95, 0.5, 0.1), "orange"),
        ((0.9, 0.85, 0.1), "yellow"),
        ((0.1, 0.8, 0.2), "green"),
        ((0.1, 0.8, 0.8), "cyan"),
        ((0.1, 0.2, 0.9), "blue"),
        ((0.5, 0.1, 0.8), "purple"),
        ((0.9, 0.2, 0.7), "pink"),
    ],
)
def test_colours_have_their_names(words: ModuleType, rgb: tuple[float, float, float], name: str) -> None:
    assert words.COLOURS[int(words.colour_of(torch.tensor(rgb)))] == name


def test_what_is_bright_and_colourful_is_named_by_its_hue(words: ModuleType) -> None:
    """The hue as the standard library computes it."""
    colours = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)).double()
    borders = (15, 45, 70, 165, 200, 260, 300, 340)
    hues = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "red")
    names = [words.COLOURS[index] for index in words.colour_of(colours).tolist()]
    compared = set()
    for rgb, name in zip(colours.tolist(), names):
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        if saturation > 0.2 and value > 0.65:
            assert name == hues[sum(360 * hue > border for border in borders)], rgb
            compared.add(name)
    assert compared == set(hues)


def test_objects_are_looked_at(words: ModuleType) -> None:
    images, ids = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 64, 64, dtype=torch.long)
    ids[0, 4:10, 4:10] = 1  # small, red, plain
    images[0, :, 4:10, 4:10] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    ids[0, 20:60, 20:60] = 2  # large, in black and white stripes
    images[0, :, 20:60, 20:60] = (torch.arange(40) % 2).float()
    ids[0, 0, 63] = 3  # one pixel: not to be seen
    objects = words.look_at(images, ids, torch.tensor([[5, 2, 1]]))
    assert objects.name.tolist() == [[-1, 4, 1, -1]]
    assert objects.area[0, 1:].tolist() == pytest.approx([36 / 4096, 1600 / 4096, 1 / 4096])
    assert [words.SIZES[int(size)] for size in objects.size[0, 1:3]] == ["small", "large"]
    assert [words.TEXTURES[int(texture)] for texture in objects.texture[0, 1:3]] == ["plain", "textured"]
    assert words.COLOURS[int(objects.colour[0, 1])] == "red"

    described = {words.describe(objects, 0, 1, torch.Generator().manual_seed(seed)) for seed in range(80)}
    attributes = ("", "small", "plain", "red", "small plain", "small red", "plain red", "small plain red")
    assert described == {f"{chosen} {words.NAMES[4]}".strip() for chosen in attributes}


def test_a_caption_names_the_largest_kinds_first(words: ModuleType) -> None:
    def objects(*names: int) -> object:
        none = torch.full((1, len(names)), -1)
        area = torch.linspace(0.1, 0.5, len(names))[None]
        return words.Objects(torch.tensor([names]), none, none, none, area)

    first, second, third, fourth = words.NAMES[:4]
    generator = torch.Generator().manual_seed(0)
    assert words.caption(objects(-1), 0, generator) == "the background"
    assert words.caption(objects(-1, 0, 1), 0, generator) == f"a {second} and a {first}"
    assert words.caption(objects(-1, 0, 0, 1), 0, generator) == f"a {second} and two {words.PLURALS[0]}"
    assert words.caption(objects(0, 0, 0), 0, generator) == f"several {words.PLURALS[0]}"
    assert words.caption(objects(0, 1, 2, 3), 0, generator) == f"a {fourth} and a {third} and a {second}"


def test_no_sentence_has_an_unknown_word(words: ModuleType) -> None:
    tokenizer, generator = words.make_tokenizer(), torch.Generator().manual_seed(0)
    scenes = render(8, 64, seed=0, difficulty=0.2)
    objects = words.look_at(scenes.images, scenes.instances, scenes.categories)
    sentences = [words.caption(objects, row, generator) for row in range(8) for _ in range(20)]
    single = [*words.NAMES, *words.PLURALS, *words.COLOURS, *words.SIZES, *words.TEXTURES, *words.ANYTHING]
    sentences += [template.format(word) for template in words.TEMPLATES for word in single]
    for sentence, ids in zip(sentences, tokenizer(sentences)["input_ids"]):
        assert tokenizer.unk_token_id not in ids, sentence
