"""Augmented views of a few training images, encoded once, so that SRM sees more than the images themselves.

Ours; the paper trains on the images as they are. A frozen SAM makes this cheap: a view costs one encoding at the start, and SRM then
learns from its embedding as often as it likes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from maskwright.data.augment import Augmentation, strong_view
from maskwright.data.batch import Batch
from maskwright.data.dataset import Dataset
from maskwright.data.labels import IGNORE
from maskwright.data.loader import Loader
from maskwright.engine.state import seeded
from maskwright.methods.autoprompt.agent import foreground_share
from maskwright.methods.autoprompt.scores import Foreground
from maskwright.sam.sam import Embedding, Sam

BATCH = 10
"""Images that are encoded at once."""


@dataclass(frozen=True)
class Views:
    """V views of N images at the size of SAM's embedding.

    Attributes:
        features: (V, C, h, w) what SRM reads of the embeddings; see ``SemanticRecalibration.features``.
        target: (V, h, w) share of each place that is foreground; 255 where less than half of it is labelled.
        semantic: (V, h, w) in 0..1, how well each place matches the text; None without a text.
        image: (V,) int64, the place in 0..N-1 of the image that each shows.
    """

    features: Tensor
    target: Tensor
    semantic: Tensor | None
    image: Tensor

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        sam: Sam,
        features: Callable[[Embedding], Tensor],
        dataset: Dataset,
        foreground: Foreground,
        geometry: Augmentation,
        count: int,
        semantic: Callable[[Tensor], Tensor | None],
        *,
        seed: int,
        advance: Callable[[float], None],
        is_over: Callable[[], bool],
    ) -> Views:
        """Of each image the plain one, in their order, and after them ``count`` that are moved, zoomed, mirrored and recoloured at random.

        Args:
            sam: encodes.
            features: of an embedding, what is kept of it.
            dataset: all samples have a mask.
            foreground: of this dataset.
            semantic: canvases (B, 3, S, S) in 0..1 → maps (B, h, w) of the text; None without one.
            seed: decides everything random.
            advance: is told how many images were encoded.
            is_over: whether there is no time for further ones; the plain ones are always there.
        """
        ids, parts = torch.tensor(foreground.ids), []
        plain = Loader(dataset, sam.size, BATCH, shuffle=False)
        changed = Loader(dataset, sam.size, BATCH, augment=geometry, seed=seed, shuffle=False)
        moments = range(-(-count * len(dataset) // BATCH))

        def recoloured() -> Iterator[tuple[Batch, Tensor]]:
            for moment in moments:
                if is_over():
                    return
                batch = changed.batch(moment)
                yield batch, strong_view(batch.images, seeded(seed, 0, moment), grey_p=0.0, blur_p=0.2)

        for batch, images in itertools.chain(((batch, batch.images) for batch in plain.ordered()), recoloured()):
            images = images.to(sam.device)
            seen = features(sam.encode(images))
            known = (batch.target != IGNORE).float()
            target = foreground_share(torch.isin(batch.target, ids) * known, known, seen.shape[-2:]).to(sam.device)
            parts.append((seen, target, semantic(images), torch.as_tensor(batch.indices).to(sam.device)))
            advance(len(images))
        seen, target, maps, image = zip(*parts)
        found = [part for part in maps if part is not None]
        return cls(torch.cat(seen), torch.cat(target), torch.cat(found) if found else None, torch.cat(image))
