"""Where ``pretrain_nano.py`` and ``pretrain_instance_head.py`` get their batches from: pictures with object ids, and episodes for answers
in context.

Everything is drawn by two generators that are seeded anew for each step, so a step's batch depends on the seed and the step's number
alone. New tensors are made on PyTorch's default device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nano_pictures import bead_ids, collage, partition, relief, stained
from nano_views import SLOTS, Pool, areas, close_views, develop, happens, look, paste, tiled, uniform, wide_views
from photo_packs import Pack

KINDS = {
    "pets": "pet",
    "pet": "pet",
    "dogcat": "pet",
    "animals": "animal",
    "balloon": "balloon",
    "kudzu": "insect",
    "trucks": "truck",
    "ccp": "person",
    "food": "food",
}
"""What all objects of a pack are, for the packs of the bundled weights, which do not say it themselves."""

UNSURE = {
    "pet": {"animal", "", "pet"},
    "animal": {"pet", "", "animal"},
    "person": {"", "balloon", "person"},
}
"""Kinds ("" = of several kinds) whose pictures may show this kind without a mask of it: they are not shown as something else."""

CHUNK = 32
"""Scenes rendered at a time."""


@dataclass
class Episode:
    """A batch for answers in context.

    Attributes:
        images: (B,3,S,S) in 0..1.
        query: (B,S,S) bool, what is to be found in each image.
        reference: (B,S,S) bool, what each image shows as a reference.
        order: (B,R) which images are the references of each.
        absent: (B,) bool: the references show something that is not in the image.
        usable: (B,) bool: query and references are known to agree, or known not to.
        name: of its sort.
    """

    images: Tensor
    query: Tensor
    reference: Tensor
    order: Tensor
    absent: Tensor
    usable: Tensor
    name: str


class Source:
    """Draws batches. Call :meth:`begin` before each step.

    Args:
        packs: photographs; those without masks fill collages only.
        size: side of the scenes that are rendered.
        scenes: how many are in memory; of them ``CHUNK`` are new every ``refresh`` steps.
        beads: pictures of many small things.
        seed: of all.
    """

    def __init__(
        self, packs: Sequence[Pack], *, size: int, scenes: int, beads: int, seed: int, refresh: int = 6
    ) -> None:
        self.packs = [pack for pack in packs if pack.has_masks]
        self.photos = list(packs)
        shares = torch.tensor([math.sqrt(len(pack)) * pack.weight for pack in self.packs], device="cpu")
        self.shares = shares / shares.sum() if self.packs else shares
        self.kinds = [pack for pack in self.packs if pack.kind]
        self.size, self.seed, self.refresh = size, seed, refresh
        self.chunks, self.first = max(1, scenes // CHUNK), -1
        self.pools: list[Pool] = []
        self.beads = torch.from_numpy(bead_ids(beads, 2 * size, seed)).to(torch.get_default_device())
        self.host, self.generator = torch.Generator("cpu"), torch.Generator(torch.get_default_device())

    def begin(self, step: int, part: int) -> None:
        """Make the draws those of this part of this step, and have its scenes ready."""
        number = (self.seed * 1_000_003 + step) * 64 + part * 2
        self.host.manual_seed(number)
        self.generator.manual_seed(number + 1)
        first = step // self.refresh
        if first != self.first:
            missing = (
                range(max(first, self.first + self.chunks), first + self.chunks)
                if self.pools
                else range(first, first + self.chunks)
            )
            self.pools = [*self.pools, *(self._rendered(chunk) for chunk in missing)][-self.chunks :]
            self.first = first

    def _rendered(self, chunk: int) -> Pool:
        seed = self.seed * 100_003 + chunk
        difficulty = 0.2 + 0.8 * torch.rand((), generator=torch.Generator("cpu").manual_seed(seed), device="cpu").item()
        return Pool.of(CHUNK, self.size, seed, difficulty)

    def chance(self) -> float:
        """A number in 0..1 that decides something for the whole batch."""
        return torch.rand((), generator=self.host, device="cpu").item()

    def below(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.host, device="cpu"))

    def _rows(self, count: int, batch: int) -> Tensor:
        return torch.randint(count, (batch,), generator=self.generator)

    def _photographs(self, count: int) -> Tensor:
        """(N,3,s,s) uint8 of one pack; grey noise where there is none."""
        if not self.photos:
            return torch.randint(256, (count, 3, 64, 64), generator=self.generator).byte()
        pack = self.photos[self.below(len(self.photos))]
        return pack.images[self._rows(len(pack), count)]

    # ------------------------------------------------------------------------------------------------- pictures

    def draw(self, batch: int, size: int) -> tuple[Tensor, Tensor, str]:
        """Images (B,3,S,S) in 0..1, ids (B,S,S) and the sort of picture: six of ten are photographs, if there are any."""
        g, dice = self.generator, self.chance()
        if not self.packs:
            dice = 0.66 + 0.34 * dice
        if dice < 0.52:
            name, (images, ids) = "photo", self._from_packs(batch, size, 0.5)
            if self.chance() < 0.35:
                name, (images, ids) = "paste", paste(images, ids, 0.5, g)
        elif dice < 0.66:
            side = 2 if self.chance() < 0.65 else 3
            source = self._from_packs if self.chance() < 0.75 else self._from_scenes
            name, (images, ids) = "tiles", tiled(*source(batch * side**2, size // side // 2 * 2, 0.0), side, size)
        elif dice < 0.74:
            name, (images, ids) = "beads", self._from_beads(batch, size)
        elif dice < 0.88:
            name, (images, ids) = "scene", self._from_scenes(batch, size, 0.4)
        else:
            from_scenes = not self.packs or self.chance() < 0.6
            images, ids = self._from_scenes(batch, size, 0.4) if from_scenes else self._from_packs(batch, size, 0.5)
            name, (images, parts) = "parts", partition(images, ids, g)
            whole = happens(batch, g, 0.3) & (ids > 0).flatten(1).any(1)
            ids = torch.where(whole[:, None, None], ids, parts)
        return develop(images, g), ids, name

    def _from_packs(self, batch: int, size: int, close: float) -> tuple[Tensor, Tensor]:
        """Views of photographs of up to four packs; a share of ``close`` looks at one object."""
        groups = next(n for n in (4, 3, 2, 1) if batch % n == 0)
        views = []
        for _ in range(groups):
            pack = self.packs[int(torch.multinomial(self.shares, 1, generator=self.host))]
            rows = self._rows(len(pack), batch // groups)
            views.append(self._look_at(pack, rows, size, (0.4, 1.2), close))
        return torch.cat([images for images, _ in views]), torch.cat([ids for _, ids in views])

    def _look_at(
        self, pack: Pack, rows: Tensor, size: int, zoom: tuple[float, float], close: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        g, ids, turn = self.generator, pack.ids[rows].long(), 0.1 if pack.upright else 0.75
        views = wide_views(len(rows), zoom, turn, g)
        if close:
            near = happens(len(rows), g, close, 1, 1)
            views = torch.where(near, close_views(ids, turn, g), views)
        return look(pack.images[rows], ids, size, views, g)

    def _some_scenes(self, rows: int, pairs: bool = False) -> tuple[Pool, Tensor]:
        pool = self.pools[self.below(len(self.pools))]
        if not pairs:
            return pool, self._rows(len(pool), rows)
        first = 2 * self._rows(len(pool) // 2, rows // 2)
        return pool, torch.stack([first, first + 1], 1).flatten()

    def _from_scenes(self, batch: int, size: int, close: float) -> tuple[Tensor, Tensor]:
        """Views of scenes, of which some are drawn anew as reliefs or collages."""
        g, (pool, rows) = self.generator, self._some_scenes(batch)
        ids = pool.instances[rows].long()
        views = wide_views(batch, (0.5, 1.6), 0.5, g)
        if close:
            near = happens(batch, g, close, 1, 1)
            # A scene has so few pixels that an object seen from nearer would have stairs for a border.
            views = torch.where(near, close_views(ids, 0.5, g, smallest=250), views)
        images, ids = look(pool.images[rows], ids, size, views, g)
        dice = self.chance()
        if dice < 0.3:
            images = relief(ids, self._photographs(batch), g)
        elif dice < 0.75:
            images = collage(images, ids, self._photographs(16), g)
        return images, ids

    def _from_beads(self, batch: int, size: int) -> tuple[Tensor, Tensor]:
        g = self.generator
        ids = self.beads[self._rows(len(self.beads), batch)].long()
        near = happens(batch, g, 0.5, 1, 1)
        views = torch.where(near, close_views(ids, 0.5, g), wide_views(batch, (0.5, 1.0), 0.5, g))
        blank = torch.zeros(batch, 3, 4, 4, dtype=torch.uint8)
        _, ids = look(blank, ids, size, views, g)
        dice = self.chance()
        if 0.6 <= dice < 0.8:
            return relief(ids, self._photographs(batch), g), ids
        images = stained(ids, self._photographs(batch), g)
        return (images if dice < 0.6 else collage(images, ids, self._photographs(8), g)), ids

    # ----------------------------------------------------------------------------------------------- in context

    def episode(self, batch: int, size: int) -> Episode:
        """An episode of one of six sorts; ``batch`` is a multiple of 4."""
        dice = self.chance()
        if dice < 0.5 and self.kinds:
            return self._of_a_kind(batch, size) if self.chance() < 0.55 else self._among_others(batch, size)
        if dice < 0.64:
            return self._twins(batch, size)
        if dice < 0.76:
            return self._bumps(batch, size)
        return self._slides(batch, size) if dice < 0.88 else self._pairs(batch, size)

    def _of_a_kind(self, batch: int, size: int) -> Episode:
        """Four pictures of a kind each: a picture's references are others of its four, now and then those of another kind."""
        packs = [self.kinds[self.below(len(self.kinds))] for _ in range(batch // 4)]
        views = [self._look_at(pack, self._rows(len(pack), 4), size, (0.45, 1.5)) for pack in packs]
        images, ids = torch.cat([images for images, _ in views]), torch.cat([ids for _, ids in views])
        return self._grouped(images, ids > 0, packs, "kind")

    def _among_others(self, batch: int, size: int) -> Episode:
        """The same with four pictures in one, some of other kinds: only those of the reference's kind count."""
        packs = [self.kinds[self.below(len(self.kinds))] for _ in range(batch // 4)]
        images, masks = [], []
        for pack in packs:
            unsure = UNSURE.get(pack.kind or "", set()) | {pack.kind}
            others = [other for other in self.packs if (other.kind or "") not in unsure]
            for _ in range(4):
                same = self.below(4)
                for tile in range(4):
                    own = not others or tile == same or self.chance() < 0.4
                    shown = pack if own else others[self.below(len(others))]
                    view, ids = self._look_at(shown, self._rows(len(shown), 1), size // 2, (0.5, 1.15))
                    images.append(view)
                    masks.append(ids * own)
        views, ids = tiled(torch.cat(images), torch.cat(masks), 2, size)
        return self._grouped(views, ids > 0, packs, "among others")

    def _grouped(self, images: Tensor, mask: Tensor, packs: Sequence[Pack], name: str) -> Episode:
        """Rows 4i to 4i + 3 are each other's references; a tenth get those of other rows, and then nothing is to be found."""
        batch, groups = len(images), len(packs)
        order = self._neighbours(batch, 1 + self.below(3))
        absent = happens(batch, self.generator, 0.1) if groups > 1 else torch.zeros(batch, dtype=torch.bool)
        away = 4 * (1 + torch.randint(max(1, groups - 1), (batch, 1), generator=self.generator))
        order = torch.where(absent[:, None], (order + away) % batch, order)
        names = [pack.kind or "" for pack in packs]
        differ = [[b != a and b not in UNSURE.get(a, set()) for b in names] for a in names]
        group = torch.arange(batch) // 4
        absent_indeed = torch.tensor(differ)[group[order[:, 0]], group] & absent
        usable = ~absent | absent_indeed
        return Episode(develop(images, self.generator), mask, mask, order, absent_indeed, usable, name)

    @staticmethod
    def _neighbours(batch: int, references: int) -> Tensor:
        """(B,R): others of each row's four."""
        row = torch.arange(batch)
        return torch.stack([row // 4 * 4 + (row + 1 + r) % 4 for r in range(references)], 1)

    def _twins(self, batch: int, size: int) -> Episode:
        """Two views of each picture: an object of one is looked for in the other, among the rest."""
        g = self.generator
        if self.packs and self.chance() < 0.6:
            pack = self.packs[int(torch.multinomial(self.shares, 1, generator=self.host))]
            rows = self._rows(len(pack), batch // 2).repeat_interleave(2)
            images, ids = self._look_at(pack, rows, size, (0.5, 1.4))
        else:
            pool, rows = self._some_scenes(batch // 2)
            rows = rows.repeat_interleave(2)
            views = wide_views(batch, (0.5, 1.4), 0.5, g)
            images, ids = look(pool.images[rows], pool.instances[rows].long(), size, views, g)
        area = areas(ids, SLOTS)
        both = torch.minimum(area[0::2], area[1::2])
        some = (both > 40).any(1)
        weight = torch.where(both > 40, both.pow(0.4), 0.0)
        weight[~some] = 1.0
        chosen = torch.multinomial(weight, 1, generator=g).repeat_interleave(2, 0)
        mask, order = ids == chosen[:, :, None], (torch.arange(batch) ^ 1)[:, None]
        never = torch.zeros(batch, dtype=torch.bool)
        return Episode(develop(images, g), mask, mask, order, never, some.repeat_interleave(2), "twins")

    def _bumps(self, batch: int, size: int) -> Episode:
        """Reliefs, four of a material each: a bump stands for all bumps."""
        g, (pool, rows) = self.generator, self._some_scenes(batch)
        ids = pool.instances[rows].long()
        kept = happens(batch, g, 0.35, SLOTS)
        ids = ids * kept.gather(1, ids.flatten(1)).view_as(ids)
        _, ids = look(pool.images[rows], ids, size, wide_views(batch, (0.5, 1.3), 0.5, g), g)
        images = relief(ids, self._photographs(batch // 4).repeat_interleave(4, 0), g)
        mask = ids > 0
        order = self._neighbours(batch, 1 + self.below(2))
        always = torch.ones(batch, dtype=torch.bool)
        return Episode(develop(images, g), mask, mask, order, ~mask.flatten(1).any(1), always, "bumps")

    def _slides(self, batch: int, size: int) -> Episode:
        """Four views of each slide with many small things: one stands for all of its sort; some slides show two sorts."""
        g, groups = self.generator, batch // 4
        rows = self._rows(len(self.beads), groups).repeat_interleave(4)
        blank = torch.zeros(batch, 3, 4, 4, dtype=torch.uint8)
        _, ids = look(blank, self.beads[rows].long(), size, wide_views(batch, (0.35, 0.8), 0.5, g), g)
        # A slide is stained once, as one picture of its four views.
        sheet = ids.view(groups, 2, 2, size, size).transpose(2, 3).reshape(groups, 2 * size, 2 * size)
        images = stained(sheet, self._photographs(groups), g)
        two_sorts, other = happens(groups, g, 0.5, 1, 1), sheet % 2 == 1
        tint = torch.where(two_sorts & other, 1.0, 0.0)[:, None] * uniform(groups, g, -0.9, 0.9, 3, 1, 1)
        images = (images * tint.exp()).clamp(0, 1)
        images = images.view(groups, 3, 2, size, 2, size).permute(0, 2, 4, 1, 3, 5).reshape(batch, 3, size, size)
        mask = (ids > 0) & ~(two_sorts.repeat_interleave(4, 0) & (ids % 2 == 1))
        always = torch.ones(batch, dtype=torch.bool)
        order = self._neighbours(batch, 1 + self.below(3))
        never = torch.zeros(batch, dtype=torch.bool)
        return Episode(develop(images, g), mask, mask, order, never, always, "slides")

    def _pairs(self, batch: int, size: int) -> Episode:
        """Two scenes that share an object, seen again elsewhere; now and then one that the other does not show."""
        g, (pool, rows) = self.generator, self._some_scenes(batch, pairs=True)
        views = wide_views(batch, (0.6, 1.3), 0.5, g)
        images, ids = look(pool.images[rows], pool.instances[rows].long(), size, views, g)
        identities, partner = pool.identities[rows], torch.arange(batch) ^ 1
        area = areas(ids, identities.shape[1] + 1)[:, 1:]
        same = (identities[:, :, None] == identities[partner][:, None, :]) & (identities[:, :, None] > 0)
        seen_there = (same & (area[partner][:, None] > 0.002 * size * size)).any(2)
        identity = identities.gather(1, torch.multinomial(seen_there * area + 1e-3 * area + 1e-6, 1, generator=g))

        def mask_of(which: Tensor) -> Tensor:
            table = F.pad((identities == which) & (which > 0), (1, 0))
            return table.gather(1, ids.flatten(1)).view_as(ids)

        reference = mask_of(identity[partner])
        always, never = torch.ones(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.bool)
        return Episode(develop(images, g), mask_of(identity), reference, partner[:, None], never, always, "pairs")
