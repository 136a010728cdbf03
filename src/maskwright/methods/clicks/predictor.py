"""A trained click agent on a user's images: from a click, a box, or masks of another source.

``predict(images, click=[(x, y)], label=["fg"])``, ``predict(images, box=(x0, y0, x1, y1))`` or
``predict(images, masks=folder)``: the agent answers the prompt with SAM's mask and what it has learnt about the objects, and corrects
the masks of the folder by clicks of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from maskwright.data.crop_dataset import cropped
from maskwright.data.dataset import Dataset
from maskwright.data.fingerprint import Fingerprint
from maskwright.data.geometry import Size, resize_matrix, squash, warp_mask, warp_points
from maskwright.data.labels import IGNORE
from maskwright.data.mask_files import read_mask
from maskwright.data.schema import Anything, Fields, Kind, Maybe, OneOf, Whole
from maskwright.engine.base_predictor import BasePredictor, Canvas, FolderTask
from maskwright.engine.model import SAM_BESIDE, Model
from maskwright.engine.prediction import Prediction
from maskwright.engine.predictor import Predictor
from maskwright.engine.scoring import ScoreTable
from maskwright.engine.weights import require_finite
from maskwright.errors import DataError, MaskwrightError
from maskwright.methods.clicks.agent import RULES, ClickAgent, ClickRules, Refinement, mask_logits
from maskwright.methods.clicks.mask_folder import MaskFolder
from maskwright.methods.clicks.own_size import image_logits
from maskwright.methods.clicks.scores import curve_table, curves_by_rules, head_room
from maskwright.methods.clicks.windows import objects_of, window_about
from maskwright.methods.semantic.scores import semantic_scores, semantic_table
from maskwright.nets.fusion import DESCRIPTION as FUSION
from maskwright.nets.fusion import Fusion
from maskwright.nets.prompter import DESCRIPTION as PROMPTER
from maskwright.nets.prompter import Prompter
from maskwright.nets.quality import DESCRIPTION as QUALITY
from maskwright.nets.quality import QualityHead
from maskwright.rl.bank import LOGIT_STRIDE, MIN_SHARE, Bank
from maskwright.rl.clicks import SLOTS, ClickState, click, start, start_box, start_mask
from maskwright.sam.sam import Embedding, Sam
from maskwright.sam.weights import EARLIER

LABELS = {"bg": 0, "fg": 1}

ORACLE_CLICKS = 4
"""Clicks of the oracle that agents are compared with, after the user's; more where the agent itself may place more."""

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


@dataclass(frozen=True)
class _Corrected:
    """How B targets were refined, and the answers: logits (B, h, w) and their Dice (B,) as the agent expects it."""

    refinement: Refinement
    logits: Tensor
    dice: Tensor


class ClickPredictor(Predictor):
    """Predicts with an agent and its SAM, from a user's prompts or masks.

    Options of :meth:`predict`, of which ``click``, ``box`` or ``masks`` must be given:

    - ``click``: places (x, y) in pixels of the image, and ``label``: ``fg`` or ``bg`` for each (left out: all ``fg``).
    - ``box``: x0, y0, x1, y1; clicks may be added to it.
    - ``category``: what a click or box is about (left out: the first after the background).
    - ``masks``: a folder with a category mask for each image: what ``maskwright predict`` wrote, or PNG files with the
      images' names. A mask that the agent does not improve stays as it is, to the pixel.
    """

    options: ClassVar[Mapping[str, Any]] = {"click": None, "label": None, "box": None, "category": None, "masks": None}

    def __init__(self, agent: ClickAgent, model: Model) -> None:
        parts = {
            "sam": agent.sam,
            "prompter": agent.prompter,
            "quality": agent.quality,
            "fusion": agent.fusion,
            "policy": getattr(agent, "policy", None),
        }
        super().__init__(nn.ModuleDict({name: part for name, part in parts.items() if part is not None}), model)
        self.agent = agent
        self._masks: MaskFolder | None = None  # of the present call

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        complete = super().with_defaults(options)
        if problems := list(self._option_problems(**complete)):
            raise MaskwrightError("; ".join(problems))
        self._masks = None if complete["masks"] is None else MaskFolder(Path(complete["masks"]))
        return complete

    def _option_problems(
        self,
        click: Sequence[tuple[float, float]] | None,
        label: Sequence[str] | None,
        box: Sequence[float] | None,
        category: str | None,
        masks: str | Path | None,
    ) -> Iterator[str]:
        prompts = click is not None or box is not None
        if not prompts and masks is None:
            yield "give --click X,Y or --box X0,Y0,X1,Y1 for an object, or --masks FOLDER with masks to refine"
        if prompts and masks is not None:
            yield "--masks refines masks, --click and --box make one: give one of the two"
        if category is not None and masks is not None:
            yield "--category is about a click or a box, and --masks refines all categories: leave it out"
        if label is not None and len(label) != len(click or ()):
            yield f"{len(label)} --label for {len(click or ())} --click; give one for each"
        yield from (f"--label {each!r}: must be fg or bg" for each in label or () if each not in LABELS)
        if category is not None and category not in self.categories[1:]:
            yield f"--category {category!r}: the model has {', '.join(self.categories[1:])}"
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            yield f"--box {box}: must be X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1"
        if masks is not None and not Path(masks).is_dir():
            yield f"--masks {masks}: there is no such folder"

    def prepare_folder(self, options: Mapping[str, Any], task: FolderTask) -> dict[str, Any]:
        """A click or a box is about one image; where ``masks`` names a model, its masks of all images are made first, in ``given/``."""
        complete = self.with_defaults(options)
        for name in ("click", "box"):
            if complete[name] is not None and task.images > 1:
                raise MaskwrightError(
                    f"--{name} is about one image, and {task.images} were given; name one, or give --masks"
                )
        masks = complete["masks"]
        if masks is not None and _holds_model(Path(masks)):
            model = task.load(Path(masks))
            self.refuse_masks_of(model)
            complete["masks"] = task.predict(model, "given", "masks to refine")
        return complete

    def companion_of(self, image: Path) -> Path | None:
        """The mask that is to be refined."""
        return None if self._masks is None else self._masks.find(image)

    def refuse_masks_of(self, other: BasePredictor) -> None:
        """Raise a MaskwrightError where the ids in another model's masks are not this one's categories."""
        if other.holds_instances:
            raise MaskwrightError(f"{other.folder}: its masks hold instances; an agent refines those of categories")
        if other.categories != self.categories:
            theirs, ours = (", ".join(each.categories[1:]) for each in (other, self))
            raise MaskwrightError(
                f"{other.folder}: its categories are {theirs}, those of {self.folder} {ours}; they must agree"
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
        if self.crop:
            for canvas in canvases:
                yield self._in_window(canvas, click=click, label=label, box=box, category=category)
            return
        name = category or self.categories[1]
        labels = [LABELS[each] for each in label] if label else [1] * len(click or ())
        yield from self._answered(canvases, list(zip(click or (), labels)), box, name)

    def _answered(
        self,
        canvases: Sequence[Canvas],
        clicks: list[tuple[tuple[float, float], int]],
        box: Sequence[float] | None,
        name: str,
        embedding: Embedding | None = None,
    ) -> Iterator[ClickPrediction]:
        """The answers to the same prompt on every image, as objects of the category ``name``."""
        bank = self._bank(canvases, list(range(len(canvases))), embedding)
        found = self._corrected(bank, self._prompted(bank, canvases, clicks, box))
        for place, canvas in enumerate(canvases):
            logits = image_logits(found.logits[place], canvas.size, self.size)
            mask = (logits > 0).cpu().numpy().astype(np.uint8) * self.categories.index(name)
            yield self._prediction(canvas, mask, found, {name: place})

    # ------------------------------------------------------------------------------------------------ crops

    def _whole(self, canvas: Canvas) -> Canvas:
        """A canvas with all pixels of its image, squashed: as all methods but those below take it."""
        return replace(canvas, pixels=squash(canvas.pixels, self.size))

    def _in_window(
        self,
        canvas: Canvas,
        *,
        click: Sequence[tuple[float, float]] | None,
        box: Sequence[float] | None,
        **options: Any,
    ) -> ClickPrediction:
        """The prediction of an agent that learnt from crops: it looks at a square about the prompts."""
        assert self.crop is not None
        if problems := list(_outside(canvas, click or (), box)):
            raise DataError(problems)
        corners = np.array([*(click or ()), *([box[:2], box[2:]] if box is not None else [])], np.float64)
        window = window_about([*corners.min(0), *corners.max(0)], canvas.size, self.crop)
        x0, y0, x1, y1 = window
        part = Canvas(canvas.id, canvas.image, (x1 - x0, y1 - y0), canvas.pixels[y0:y1, x0:x1])
        moved_box = None if box is None else tuple(v - o for v, o in zip(box, (x0, y0, x0, y0)))
        moved = None if click is None else [(x - x0, y - y0) for x, y in click]
        (found,) = self.with_whole_images().finish([self._whole(part)], click=moved, box=moved_box, **options)
        assert isinstance(found, ClickPrediction)
        mask = np.zeros(canvas.size[::-1], np.uint8)
        mask[y0:y1, x0:x1] = found.mask
        clicks = {name: [(x + x0, y + y0, label) for x, y, label in placed] for name, placed in found.clicks.items()}
        return replace(found, mask=mask, clicks=clicks)

    def with_whole_images(self) -> ClickPredictor:
        """The same agent, which takes every image as one crop."""
        other = copy(self)
        other.crop = None
        return other

    def _corrected_objects(self, canvas: Canvas, mask: NDArray[np.uint8]) -> Prediction:
        """A mask of which each object is corrected on a square about it."""
        assert self.crop is not None
        whole, corrected = self.with_whole_images(), mask.copy()
        for (x0, y0, x1, y1), part in objects_of(mask, self.crop):
            pixels = squash(canvas.pixels[y0:y1, x0:x1], self.size)
            view = Canvas(canvas.id, canvas.image, (x1 - x0, y1 - y0), pixels)
            (found,) = whole._refined_masks([view], [part])
            here = corrected[y0:y1, x0:x1]
            here[(part > 0) & (here == part)] = 0
            free = here == 0
            here[free] = found.mask[free]
        return ClickPrediction(canvas.id, canvas.image, corrected, self.categories, {})

    # ------------------------------------------------------------------------------------------------ one image in hand

    @torch.no_grad()
    def answer(
        self,
        pixels: NDArray[np.uint8],
        click: Sequence[tuple[float, float]],
        label: Sequence[str],
        box: Sequence[float] | None = None,
        embedding: Embedding | None = None,
    ) -> ClickPrediction:
        """The object that clicks and a box are about, as one of the first category, whatever it is.

        Args:
            pixels: the image, (H, W, 3).
            click: places (x, y) in pixels of the image, and ``label``: ``fg`` or ``bg`` for each.
            box: x0, y0, x1, y1.
            embedding: of the image by the agent's SAM, where there is one; left out, it is encoded.

        Raises:
            DataError: a prompt lies outside of the image.
            MaskwrightError: neither a click nor a box, or what :meth:`predict` refuses of them.
        """
        if problems := list(self._option_problems(click or None, label or None, box, None, None)):
            raise MaskwrightError("; ".join(problems))
        canvas = Canvas("", pixels, (pixels.shape[1], pixels.shape[0]), pixels)
        if self.crop:
            return self._in_window(canvas, click=click or None, label=label or None, box=box)
        clicks = [(place, LABELS[each]) for place, each in zip(click, label, strict=True)]
        (found,) = self._answered([self._whole(canvas)], clicks, box, self.categories[1], embedding)
        return found

    # ------------------------------------------------------------------------------------------------ refining

    @torch.no_grad()
    def correct(
        self, pixels: NDArray[np.uint8], mask: NDArray[np.bool_], embedding: Embedding | None = None
    ) -> ClickPrediction:
        """One object's mask, corrected. A mask that the agent does not improve stays as it is, to the pixel.

        Args:
            pixels: the image, (H, W, 3).
            mask: (H, W).
            embedding: of the image by the agent's SAM, where there is one; left out, it is encoded.

        Returns:
            The mask as one of the first category, whatever the object is: an agent corrects all alike.

        Raises:
            DataError: the object is too small to be corrected.
        """
        canvas = Canvas("", pixels, (pixels.shape[1], pixels.shape[0]), squash(pixels, self.size))
        share = self._share_of_cells(mask, canvas.size)
        if float(share.mean()) < MIN_SHARE:
            raise DataError([f"the object is less than {MIN_SHARE:.3%} of the image, too small for a click agent"])
        found = self._refine_targets([canvas], [(0, 1, share)], embedding)
        corrected = mask.astype(np.uint8)
        if int(found.refinement.kept[0]):
            corrected = (image_logits(found.logits[0], canvas.size, self.size) > 0).cpu().numpy().astype(np.uint8)
        return self._prediction(canvas, corrected, found, {self.categories[1]: 0})

    def _bank(self, canvases: Sequence[Canvas], images: list[int], embedding: Embedding | None = None) -> Bank:
        pixels = torch.from_numpy(np.stack([canvas.pixels for canvas in canvases])).permute(0, 3, 1, 2).contiguous()
        rows = torch.tensor(images, dtype=torch.long)
        return Bank.of_images(self.agent.sam, pixels, image=rows, names=[""] * len(images), embedding=embedding)

    def _share_of_cells(self, mask: NDArray[Any], size: Size) -> Tensor:
        """The share (h, w) of each cell of SAM's logits that a mask (H, W) covers."""
        squashed = warp_mask(mask.astype(np.uint8), resize_matrix(size, self.size), self.size, fill=0)
        return F.avg_pool2d(torch.from_numpy(squashed > 0).float()[None, None], LOGIT_STRIDE)[0, 0]

    def _prompted(
        self,
        bank: Bank,
        canvases: Sequence[Canvas],
        clicks: list[tuple[tuple[float, float], int]],
        box: Sequence[float] | None,
    ) -> ClickState:
        """SAM's answers to the same prompt on every image, click after click."""
        rows = torch.arange(len(canvases), device=bank.device)
        slots = max(SLOTS, 2 + len(clicks) + self.agent.rules.most_clicks)
        matrices = [resize_matrix(canvas.size, self.size) for canvas in canvases]

        def on_canvas(points: Sequence[float]) -> Tensor:
            pairs = np.asarray(points, np.float64).reshape(-1, 2)
            both = np.stack([warp_points(pairs, matrix) for matrix in matrices])
            return torch.from_numpy(both).float().to(bank.device).flatten(1)

        problems = [line for canvas in canvases for line in _outside(canvas, [place for place, _ in clicks], box)]
        if problems:
            raise DataError(problems)
        state = start_box(self.agent.sam, bank, rows, on_canvas(box), slots=slots) if box is not None else None
        for (x, y), label in clicks:
            labels = torch.full_like(rows, label)
            if state is None:
                state = start(self.agent.sam, bank, rows, on_canvas((x, y)), labels, slots=slots)
            else:
                state = click(self.agent.sam, bank, state, on_canvas((x, y)), labels)
        if state is None:
            raise ValueError("a prompt is needed")
        return state

    def _refined(self, canvases: Sequence[Canvas]) -> Iterator[Prediction]:
        """The masks of the folder, corrected: every category of an image is one target."""
        masks = [self._mask_of(canvas) for canvas in canvases]
        if self.crop:
            return (self._corrected_objects(canvas, mask) for canvas, mask in zip(canvases, masks))
        return self._refined_masks(canvases, masks)

    def _refined_masks(self, canvases: Sequence[Canvas], masks: Sequence[NDArray[np.uint8]]) -> Iterator[Prediction]:
        targets: list[tuple[int, int, Tensor]] = []
        for image, (canvas, mask) in enumerate(zip(canvases, masks)):
            squashed = torch.from_numpy(
                warp_mask(mask, resize_matrix(canvas.size, self.size), self.size, fill=0).astype(np.uint8)
            )
            for category in range(1, len(self.categories)):
                share = F.avg_pool2d((squashed == category).float()[None, None], LOGIT_STRIDE)[0, 0]
                if float(share.mean()) >= MIN_SHARE:
                    targets.append((image, category, share))
        found = self._refine_targets(canvases, targets) if targets else None
        for image, (canvas, mask) in enumerate(zip(canvases, masks)):
            places = {category: place for place, (owner, category, _) in enumerate(targets) if owner == image}
            if found is not None:
                changed = {category: place for category, place in places.items() if int(found.refinement.kept[place])}
                if changed:
                    logits = {category: found.logits[place] for category, place in changed.items()}
                    mask = self._redrawn(canvas, mask, logits)
            by_name = {self.categories[category]: place for category, place in places.items()}
            yield self._prediction(canvas, mask, found, by_name)

    def _refine_targets(
        self,
        canvases: Sequence[Canvas],
        targets: Sequence[tuple[int, int, Tensor]],
        embedding: Embedding | None = None,
    ) -> _Corrected:
        """The agent's refinement of masks ``(image, category, share of each cell)``."""
        bank = self._bank(canvases, [image for image, _, _ in targets], embedding)
        rows = torch.arange(len(targets), device=bank.device)
        logits = mask_logits(torch.stack([share for *_, share in targets])).to(bank.device)
        slots = max(SLOTS, self.agent.rules.most_clicks)
        return self._corrected(bank, start_mask(self.agent.sam, bank, rows, logits, slots=slots))

    def _corrected(self, bank: Bank, state: ClickState) -> _Corrected:
        refinement = self.agent.refine(bank, state)
        logits, dice = self.agent.conclude(bank, refinement)
        require_finite(logits, dice)
        return _Corrected(refinement, logits, dice)

    def _redrawn(self, canvas: Canvas, mask: NDArray[np.uint8], logits: dict[int, Tensor]) -> NDArray[np.uint8]:
        """The mask with the categories of ``logits`` drawn anew around the others; a pixel goes to the category with the highest logit."""
        redrawn = np.where(np.isin(mask, list(logits)), 0, mask).astype(np.uint8)
        free, best = redrawn == 0, np.zeros(mask.shape, np.float32)
        for category, low in logits.items():
            whole = image_logits(low, canvas.size, self.size).cpu().numpy()
            wins = free & (whole > best)
            best[wins], redrawn[wins] = whole[wins], category
        return redrawn

    def _prediction(
        self, canvas: Canvas, mask: NDArray[np.uint8], found: _Corrected | None, places: Mapping[str, int]
    ) -> ClickPrediction:
        """A mask with the clicks that led to it; ``places`` of the image's categories among the targets."""
        clicks, scores = {}, {}
        if found is not None:
            first, last = found.refinement.states[0], found.refinement.last
            scale = np.array([canvas.size[0] / self.size, canvas.size[1] / self.size])
            for name, place in places.items():
                new = slice(int(first.tokens[place]), int(last.tokens[place]))
                points = last.points[place, new].cpu().numpy() * scale
                labels = ["fg" if label else "bg" for label in last.labels[place, new].tolist()]
                clicks[name] = [(float(x), float(y), label) for (x, y), label in zip(points, labels)]
                scores[name] = float(found.dice[place])
        return ClickPrediction(canvas.id, canvas.image, mask, self.categories, scores, clicks)

    def _mask_of(self, canvas: Canvas) -> NDArray[np.uint8]:
        """The mask of the folder for an image: category ids, of the image's size."""
        assert self._masks is not None
        image = Path(canvas.image) if isinstance(canvas.image, str | Path) else Path(canvas.id)
        path = self._masks.find(image)
        if path is None:
            raise DataError(
                [f"{self._masks.folder}: there is no mask for image {canvas.id}; put {canvas.id}.png there"]
            )
        mask = read_mask(path)
        problems = []
        if mask.shape != (canvas.size[1], canvas.size[0]):
            pixels = f"{mask.shape[1]} x {mask.shape[0]}"
            problems.append(
                f"{path}: has {pixels} pixels, its image {canvas.size[0]} x {canvas.size[1]}; make them equal"
            )
        foreign = sorted(set(np.unique(mask).tolist()) - {*range(len(self.categories)), IGNORE})
        if foreign:
            problems.append(f"{path}: holds category {foreign[0]}, and the model has 0..{len(self.categories) - 1}")
        if problems:
            raise DataError(problems)
        return np.where(mask == IGNORE, 0, mask).astype(np.uint8)

    # ------------------------------------------------------------------------------------------------ scores

    def scoring_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        if options.get("masks") is not None:
            return self.with_defaults(options)
        if options:
            super().with_defaults(options)
            raise MaskwrightError(
                "an agent is scored from the oracle's first click, or with --masks; leave other prompts out"
            )
        return {}

    def score(
        self,
        part: Dataset,
        *,
        batch: int,
        progress: Callable[[int, int], None] | None,
        masks: str | Path | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Dice after each click on every target, the first click being the oracle's; or, with ``masks``, the scores of the masks that
        the agent refined, see :func:`maskwright.methods.semantic.scores.semantic_scores`.

        Returns:
            Without ``masks``: ``curves`` by name (see ``Curve.summary``), ``head_room`` captured, ``tiny``, the number of targets
            that are too small to be scored, and ``per_target`` with names.
        """
        if masks is not None:
            return semantic_scores(self, part, batch=batch, progress=progress, masks=masks, **options)
        if self.crop:
            # On crops that are chosen as those of a training are.
            digest = Fingerprint.of(part).digest
            part, _ = cropped(part, digest, {name: round(self.crop) for name in {sample.split for sample in part}})
        clicks = max(self.agent.rules.clicks, ORACLE_CLICKS)
        rules = {"agent": self.agent.rules, "oracle": ClickRules(clicks, 1, "oracle", "always", stop=False)}
        curves, targets, tiny = curves_by_rules(self.agent, part, rules, memory=AT_ONCE, batch=batch, progress=progress)
        agent, oracle = curves["agent"], curves["oracle"]
        return {
            "clicks": self.agent.rules.clicks,
            "rules": asdict(self.agent.rules),
            "curves": {name: each.summary() for name, each in curves.items()},
            "head_room": head_room(agent, oracle),
            "tiny": tiny,
            "per_target": [
                {"target": target, "first": float(first), "dice": dice.tolist(), "clicks": int(count)}
                for target, first, dice, count in zip(targets, agent.first, agent.dice, agent.clicks)
            ],
        }

    def scores_ending(self, options: Mapping[str, Any]) -> str:
        return "" if options.get("masks") is None else "-refined"

    def score_table(self, scores: Mapping[str, Any]) -> ScoreTable:
        return (
            curve_table(scores["curves"], scores["head_room"], scores["tiny"])
            if "curves" in scores
            else semantic_table(scores)
        )


def _outside(canvas: Canvas, clicks: Sequence[tuple[float, float]], box: Sequence[float] | None) -> Iterator[str]:
    """One line for each prompt that lies outside of an image."""
    width, height = canvas.size
    outside = f"lies outside of its {width} x {height} pixels"
    for x, y in clicks:
        if not (0 <= x < width and 0 <= y < height):
            yield f"image {canvas.id}: --click {x:g},{y:g} {outside}"
    if box is not None and not (box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0):
        yield f"image {canvas.id}: --box {','.join(f'{value:g}' for value in box)} {outside}"


def _holds_model(path: Path) -> bool:
    """Whether a folder is a run or a model folder, not one of masks."""
    return any((folder / "model.safetensors").is_file() for folder in (path, path / "model"))


def load_agent(model: Model) -> ClickPredictor:
    """The predictor of a model folder of the recipe ``clicks``.

    Raises:
        WeightsError: files that are missing or damaged, tensors that do not fit, or a SAM other than the one that the
            agent was trained for.
    """
    learner = model.config.get("learner")
    fields = {"learner": OneOf(("own", "sb3")), "sam": SAM_BESIDE, "settled": Anything()}
    parts = model.parts(fields | (_SB3 if learner == "sb3" else _OWN), optional=["fusion"])
    source, size, signature = (parts["sam"][name] for name in ("source", "size", "signature"))
    sam = Sam.load(source, size=size)
    now = sam.signature(configured=model.version > 1)
    model.require_weights("SAM", source, now, signature, EARLIER.get(signature))
    agent = _pixel_agent(sam, model, parts) if learner == "sb3" else _own_agent(sam, model, parts)
    return ClickPredictor(agent, model)


_OWN: dict[str, Kind] = {"prompter": PROMPTER, "quality": Maybe(QUALITY), "fusion": Maybe(FUSION), "rules": RULES}
_SB3: dict[str, Kind] = {
    "pixel_policy": Fields({"grid": Whole(2, 128), "pixels": Whole(36, 512)}),
    "clicks": Whole(0, 1000),
}


def _own_agent(sam: Sam, model: Model, parts: Mapping[str, Any]) -> ClickAgent:
    prompter = model.build(lambda: Prompter(**parts["prompter"]))
    quality = None
    if parts["quality"] is not None:
        quality = model.build(lambda: QualityHead(**parts["quality"]), "quality")
    fusion = None
    if parts.get("fusion") is not None:
        fusion = model.build(lambda: Fusion(**parts["fusion"]), "fusion")
    elif parts["rules"].get("answer") == "fused":
        model.refuse(["rules.answer: is 'fused', and the model has no fusion"])
    return ClickAgent(sam, prompter, quality, ClickRules(**parts["rules"]), fusion)


def _pixel_agent(sam: Sam, model: Model, parts: Mapping[str, Any]) -> ClickAgent:
    from maskwright.methods.clicks.pixel_agent import (
        PixelAgent,
        pixel_policy,
    )  # seconds to import, and only the baseline needs it

    policy = pixel_policy(**parts["pixel_policy"])
    model.fill(policy)
    return PixelAgent(sam, policy, parts["clicks"], **parts["pixel_policy"])
