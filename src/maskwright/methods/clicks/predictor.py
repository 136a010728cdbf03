"""A trained click agent at work on a user's images: from a click, a box, or masks that somebody else made.

``predict(images, click=[(x, y)], label=["fg"])``, ``predict(images, box=(x0, y0, x1, y1))`` or
``predict(images, masks=folder)``: the agent takes SAM's answer, or the given masks, and corrects them by clicks of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from maskwright.data.check import require_clean
from maskwright.data.geometry import Size, resize_matrix, unwarp_logits, warp_mask, warp_points
from maskwright.data.images import read_mask
from maskwright.data.labels import IGNORE, Dataset
from maskwright.engine.model import Model
from maskwright.engine.predictor import Canvas, Prediction, Predictor
from maskwright.engine.scoring import ScoreTable, refuse_unsuited, scored
from maskwright.errors import DataError, MaskwrightError
from maskwright.methods.clicks.agent import ClickAgent, ClickRules, Refinement, mask_logits
from maskwright.methods.clicks.given_masks import GivenMasks
from maskwright.methods.clicks.scores import LOST, Curve, curve, head_room
from maskwright.nets.prompter import Prompter
from maskwright.nets.quality import QualityHead
from maskwright.rl.bank import LOGIT_STRIDE, MIN_SHARE, Bank
from maskwright.rl.clicks import SLOTS, ClickState, click, start, start_box, start_mask
from maskwright.sam.sam import Sam
from maskwright.sam.store import weights_signature

LABELS = {"bg": 0, "fg": 1}

AT_ONCE = 2**30
"""Bytes of images, embeddings and masks that are scored at a time."""


@dataclass(frozen=True)
class ClickPrediction(Prediction):
    """A mask that an agent corrected.

    Attributes:
        clicks: for each category the clicks of the agent that were kept: x and y in pixels of the image, and ``fg`` or ``bg``.
    """

    clicks: dict[str, list[tuple[float, float, str]]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        rounded = {name: [[round(x, 1), round(y, 1), label] for x, y, label in c] for name, c in self.clicks.items()}
        return super().record() | {"clicks": rounded}


class ClickPredictor(Predictor):
    """An agent, its SAM, and what a user may tell it.

    Options of :meth:`predict`, of which ``click``, ``box`` or ``masks`` must be given:

    - ``click``: places (x, y) in pixels of the image, and ``label``: ``fg`` or ``bg`` for each (left out: all ``fg``).
    - ``box``: x0, y0, x1, y1; clicks may be added to it.
    - ``category``: what a click or box is about (left out: the first after the background).
    - ``masks``: a folder with a category mask for each image: what ``maskwright predict`` wrote, or PNG files with the
      images' names. A mask that the agent finds nothing to mend in stays as it is, to the pixel.
    """

    options: ClassVar[Mapping[str, Any]] = {"click": None, "label": None, "box": None, "category": None, "masks": None}

    def __init__(self, agent: ClickAgent, model: Model) -> None:
        parts = {
            "sam": agent.sam,
            "prompter": agent.prompter,
            "quality": agent.quality,
            "policy": getattr(agent, "policy", None),
        }
        super().__init__(nn.ModuleDict({name: part for name, part in parts.items() if part is not None}), model)
        self.agent = agent
        self._given: GivenMasks | None = None  # of the present call

    def chosen(self, options: Mapping[str, Any]) -> dict[str, Any]:
        found = super().chosen(options)
        prompted = found["click"] is not None or found["box"] is not None
        problems = []
        if not prompted and found["masks"] is None:
            problems.append(
                "give --click X,Y or --box X0,Y0,X1,Y1 for an object, or --masks FOLDER with masks to refine"
            )
        if prompted and found["masks"] is not None:
            problems.append("--masks refines masks, --click and --box make one: give one of the two")
        if found["category"] is not None and found["masks"] is not None:
            problems.append("--category is about a click or a box, and --masks refines all categories: leave it out")
        if found["label"] is not None and len(found["label"]) != len(found["click"] or ()):
            problems.append(f"{len(found['label'])} --label for {len(found['click'] or ())} --click; give one for each")
        problems += [f"--label {label!r}: must be fg or bg" for label in found["label"] or () if label not in LABELS]
        if found["category"] is not None and found["category"] not in self.categories[1:]:
            problems.append(f"--category {found['category']!r}: the model has {', '.join(self.categories[1:])}")
        if found["box"] is not None and not (found["box"][0] < found["box"][2] and found["box"][1] < found["box"][3]):
            problems.append(f"--box {found['box']}: must be X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1")
        if found["masks"] is not None and not Path(found["masks"]).is_dir():
            problems.append(f"--masks {found['masks']}: there is no such folder")
        if problems:
            raise MaskwrightError("; ".join(problems))
        self._given = None if found["masks"] is None else GivenMasks(Path(found["masks"]))
        return found

    def rests_on(self, image: Path) -> Path | None:
        return None if self._given is None else self._given.find(image)

    def refuse_masks_of(self, other: Predictor) -> None:
        """Raise a MaskwrightError where the ids in another model's masks are not this one's categories."""
        if other.holds_instances:
            raise MaskwrightError(f"{other.folder}: its masks hold instances; an agent refines those of categories")
        if other.categories != self.categories:
            theirs, own = (", ".join(each.categories[1:]) for each in (other, self))
            raise MaskwrightError(
                f"{other.folder}: its categories are {theirs}, those of {self.folder} {own}; they must agree"
            )

    @torch.no_grad()
    def finish(
        self,
        canvases: Sequence[Canvas],
        *,
        click: Sequence[tuple[float, float]] | None = None,
        label: Sequence[str] | None = None,
        box: Sequence[float] | None = None,
        category: str | None = None,
        masks: str | Path | None = None,
    ) -> Iterator[Prediction]:
        if masks is not None:
            yield from self._refined(canvases)
            return
        name = category or self.categories[1]
        labels = [LABELS[each] for each in label] if label else [1] * len(click or ())
        bank = self._bank(canvases, list(range(len(canvases))))
        state = self._prompted(bank, canvases, list(zip(click or (), labels)), box)
        done = self.agent.refine(bank, state)
        for place, canvas in enumerate(canvases):
            logits = self._own(done.last.logits[place], canvas.size)
            mask = (logits > 0).cpu().numpy().astype(np.uint8) * self.categories.index(name)
            yield self._prediction(canvas, mask, {name: (done, place)})

    # ------------------------------------------------------------------------------------------------ parts of it

    def _bank(self, canvases: Sequence[Canvas], images: list[int]) -> Bank:
        pixels = torch.from_numpy(np.stack([canvas.pixels for canvas in canvases])).permute(0, 3, 1, 2).contiguous()
        return Bank.of_images(
            self.agent.sam, pixels, image=torch.tensor(images, dtype=torch.long), names=[""] * len(images)
        )

    def _prompted(
        self,
        bank: Bank,
        canvases: Sequence[Canvas],
        clicks: list[tuple[tuple[float, float], int]],
        box: Sequence[float] | None,
    ) -> ClickState:
        """SAM's answers to the same prompt on every image, click after click."""
        rows = torch.arange(len(canvases), device=bank.device)
        slots = max(SLOTS, 2 + len(clicks) + self.agent.rules.clicks)
        matrices = [resize_matrix(canvas.size, self.size) for canvas in canvases]

        def moved(points: Sequence[float]) -> Tensor:
            pairs = np.asarray(points, np.float64).reshape(-1, 2)
            both = np.stack([warp_points(pairs, matrix) for matrix in matrices])
            return torch.from_numpy(both).float().to(bank.device).flatten(1)

        problems = []
        for canvas in canvases:
            width, height = canvas.size
            outside = f"lies outside of its {width} x {height} pixels"
            for (x, y), _ in clicks:
                if not (0 <= x < width and 0 <= y < height):
                    problems.append(f"image {canvas.id}: --click {x:g},{y:g} {outside}")
            if box is not None and not (box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0):
                problems.append(f"image {canvas.id}: --box {','.join(f'{value:g}' for value in box)} {outside}")
        if problems:
            raise DataError(problems)
        state = start_box(self.agent.sam, bank, rows, moved(box), slots=slots) if box is not None else None
        for (x, y), label in clicks:
            labels = torch.full_like(rows, label)
            if state is None:
                state = start(self.agent.sam, bank, rows, moved((x, y)), labels, slots=slots)
            else:
                state = click(self.agent.sam, bank, state, moved((x, y)), labels)
        if state is None:
            raise ValueError("a prompt is needed")
        return state

    def _refined(self, canvases: Sequence[Canvas]) -> Iterator[Prediction]:
        """The given masks, corrected: every category of an image is a target of its own."""
        given = [self._mask_of(canvas) for canvas in canvases]
        targets: list[tuple[int, int, Tensor]] = []
        for image, (canvas, mask) in enumerate(zip(canvases, given)):
            on_canvas = torch.from_numpy(
                warp_mask(mask, resize_matrix(canvas.size, self.size), self.size, fill=0).astype(np.uint8)
            )
            for category in range(1, len(self.categories)):
                share = F.avg_pool2d((on_canvas == category).float()[None, None], LOGIT_STRIDE)[0, 0]
                if float(share.mean()) >= MIN_SHARE:
                    targets.append((image, category, share))
        done = None
        if targets:
            bank = self._bank(canvases, [image for image, _, _ in targets])
            rows = torch.arange(len(targets), device=bank.device)
            logits = mask_logits(torch.stack([share for *_, share in targets])).to(bank.device)
            slots = max(SLOTS, self.agent.rules.clicks)
            done = self.agent.refine(bank, start_mask(self.agent.sam, bank, rows, logits, slots=slots))
        for image, (canvas, mask) in enumerate(zip(canvases, given)):
            own = {c: place for place, (i, c, _) in enumerate(targets) if i == image}
            mended = {c: place for c, place in own.items() if done is not None and int(done.kept[place])}
            if mended and done is not None:
                mask = self._mended(canvas, mask, {c: done.last.logits[place] for c, place in mended.items()})
            found = {self.categories[c]: (done, place) for c, place in own.items()} if done is not None else {}
            yield self._prediction(canvas, mask, found)

    def _mended(self, canvas: Canvas, mask: NDArray[np.uint8], logits: dict[int, Tensor]) -> NDArray[np.uint8]:
        """The mask with some categories drawn anew, beside those that stay as they are; the surer of two that claim a pixel gets it."""
        mended = np.where(np.isin(mask, list(logits)), 0, mask).astype(np.uint8)
        free, best = mended == 0, np.zeros(mask.shape, np.float32)
        for category, low in logits.items():
            own = self._own(low, canvas.size).cpu().numpy()
            wins = free & (own > best)
            best[wins], mended[wins] = own[wins], category
        return mended

    def _own(self, logits: Tensor, size: Size) -> Tensor:
        """Logits (h, w) on the image's own pixels (H, W)."""
        matrix = torch.from_numpy(resize_matrix(size, self.size))[None].float()
        return unwarp_logits(logits[None, None].float(), matrix, [size], canvas=self.size)[0][0]

    def _prediction(
        self, canvas: Canvas, mask: NDArray[np.uint8], found: dict[str, tuple[Refinement, int]]
    ) -> ClickPrediction:
        clicks, scores = {}, {}
        for name, (done, place) in found.items():
            first, last = done.states[0], done.last
            new = slice(int(first.tokens[place]), int(last.tokens[place]))
            back = np.array([canvas.size[0] / self.size, canvas.size[1] / self.size])
            points = last.points[place, new].cpu().numpy() * back
            kinds = ["fg" if kind else "bg" for kind in last.labels[place, new].tolist()]
            clicks[name] = [(float(x), float(y), kind) for (x, y), kind in zip(points, kinds)]
            scores[name] = float(done.quality[place, -1])
        return ClickPrediction(canvas.id, canvas.image, mask, self.categories, scores, clicks)

    def _mask_of(self, canvas: Canvas) -> NDArray[np.uint8]:
        """The given mask of an image: category ids, of the image's size."""
        assert self._given is not None
        image = Path(canvas.image) if isinstance(canvas.image, str | Path) else Path(canvas.id)
        path = self._given.find(image)
        if path is None:
            raise DataError(
                [f"{self._given.folder}: there is no mask for image {canvas.id}; put {canvas.id}.png there"]
            )
        mask = read_mask(path)
        problems = []
        if mask.shape != (canvas.size[1], canvas.size[0]):
            found = f"{mask.shape[1]} x {mask.shape[0]}"
            problems.append(
                f"{path}: has {found} pixels, its image {canvas.size[0]} x {canvas.size[1]}; make them equal"
            )
        unknown = sorted(set(np.unique(mask).tolist()) - {*range(len(self.categories)), IGNORE})
        if unknown:
            problems.append(f"{path}: holds category {unknown[0]}, and the model has 0..{len(self.categories) - 1}")
        if problems:
            raise DataError(problems)
        return np.where(mask == IGNORE, 0, mask).astype(np.uint8)

    # ------------------------------------------------------------------------------------------------ scores

    def evaluate(
        self,
        dataset: Dataset,
        split: str = "test",
        *,
        batch: int = 8,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Dice after each click on every target of a split, the first click being the oracle's; or, with ``masks``, the
        scores of the masks that the agent refined, see :func:`maskwright.engine.evaluation.semantic_scores`.

        Returns:
            ``curves`` by name (see ``click_scores.Curve.summary``), ``head_room`` captured, ``per_target`` with names,
            and what was scored.
        """
        if options.get("masks") is not None:
            return super().evaluate(dataset, split, batch=batch, progress=progress, **options)
        if options:
            super().chosen(options)
            raise MaskwrightError(
                "an agent is scored from the oracle's first click, or with --masks; leave other prompts out"
            )
        refuse_unsuited(self, dataset, split)
        part = dataset.split(split)
        require_clean(part, training=False)
        clicks = self.agent.rules.clicks
        rules = {"agent": self.agent.rules, "oracle": ClickRules(clicks, 1, "oracle", "always", stop=False)}
        found: dict[str, list[Curve]] = {name: [] for name in rules}
        names: list[str] = []
        before = 0
        for bank in Bank.parts(self.agent.sam, part, memory=AT_ONCE):
            images, work = len(bank.pixels), len(rules) * len(bank)
            for number, (name, each) in enumerate(rules.items()):
                share = partial(_told, progress, len(part), before, images, number * len(bank), work)
                found[name].append(curve(self.agent, bank, each, batch=batch, progress=share))
            names += bank.names
            before += images
        curves = {name: Curve.cat(each) for name, each in found.items()}
        return scored(self, dataset, split) | {
            "clicks": clicks,
            "rules": asdict(self.agent.rules),
            "curves": {name: found.summary() for name, found in curves.items()},
            "head_room": head_room(curves["agent"], curves["oracle"]),
            "per_target": [
                {"target": name, "dice": dice.tolist(), "clicks": int(clicks)}
                for name, dice, clicks in zip(names, curves["agent"].dice, curves["agent"].clicks)
            ],
        }

    def score_table(self, scores: Mapping[str, Any]) -> ScoreTable:
        if "curves" not in scores:
            return super().score_table(scores)
        return curve_table(scores["curves"], scores["head_room"])


def _told(
    progress: Callable[[int, int], None] | None,
    total: int,
    before: int,
    images: int,
    start: int,
    work: int,
    done: int,
    _: int,
) -> None:
    """Targets scored by one rule → images: those ``before``, and of ``images`` the share of the ``work`` that is done."""
    if progress:
        progress(before + images * (start + done) // work, total)


def curve_table(curves: Mapping[str, Mapping[str, Any]], captured: float | None) -> ScoreTable:
    """Dice by clicks, a row for each way to place them."""
    count = max(len(found["dice"]) for found in curves.values())
    columns = ["Dice after click", *(str(n + 1) for n in range(count)), "gain", "from", "to", "lost", "clicks"]
    rows = [[name, *f["dice"], *f["gain"], f["lost"], f["clicks"]] for name, f in curves.items()]
    targets = next(iter(curves.values()))["targets"]
    note = f"{targets} targets, the first click is the oracle's. Gain over it with its 95 % interval. "
    note += f"Lost: share of targets that end more than {LOST} lower. Clicks: those after the first."
    if captured is not None:
        note += f" The agent captures {captured:.0%} of what the oracle, which sees the truth, gains."
    return ScoreTable(columns, rows, note)


def load_agent(model: Model) -> ClickPredictor:
    """The predictor of a model folder of the recipe ``clicks``.

    Raises:
        WeightsError: files that are missing or damaged, tensors that do not fit, or a SAM other than the one that the
            agent was trained for.
    """
    config = model.config
    try:
        source, size, signature = (config["sam"][name] for name in ("source", "size", "signature"))
        learner = config["learner"]
    except (KeyError, TypeError) as error:
        raise model.misfit("sam", error) from error
    sam = Sam.load(source, size=size)
    model.require_weights("SAM", source, weights_signature(sam.model), signature)
    try:
        agent = _pixel_agent(sam, model) if learner == "sb3" else _own_agent(sam, model)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise model.misfit("agent", error) from error
    return ClickPredictor(agent, model)


def _own_agent(sam: Sam, model: Model) -> ClickAgent:
    config = model.config
    prompter, rules = Prompter(**config["prompter"]), ClickRules(**config["rules"])
    quality = None if config["quality"] is None else QualityHead(**config["quality"])
    model.fill(prompter)
    if quality is not None:
        model.fill(quality, "quality")
    return ClickAgent(sam, prompter, quality, rules)


def _pixel_agent(sam: Sam, model: Model) -> ClickAgent:
    from maskwright.methods.clicks.pixel_agent import (
        PixelAgent,
        pixel_policy,
    )  # seconds to import, and only the baseline needs it

    settings = model.config["pixel_policy"]
    policy = pixel_policy(**settings)
    model.fill(policy)
    return PixelAgent(sam, policy, model.config["clicks"], **settings)
