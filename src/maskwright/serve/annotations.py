"""The labels of one image while they are made: objects one by one, changed by operations, with revisions.

Operations carry ids of their own, so that one that is sent twice is done once. Changes of several clients are merged; where two change
the same thing, the later one is told so and nothing is lost (:class:`Conflict`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from maskwright.serve.wire import MAX_OBJECTS, Size, WireError, checked_id, checked_object, is_whole

REMEMBERED = 2_000
"""Operations whose ids are remembered."""

PARTS = ("tags", "nothing", "done", "order")
"""What an operation may change besides an object."""


class Conflict(Exception):
    """Somebody else has changed the same things since.

    Attributes:
        targets: ids of objects, or names of ``PARTS``.
    """

    def __init__(self, targets: list[str]) -> None:
        super().__init__("somebody else has changed this since; take theirs, yours, or both")
        self.targets = targets


@dataclass(frozen=True)
class Annotations:
    """The labels of an image.

    Attributes:
        rev: goes up by one with every request that changes something.
        objects: as :func:`maskwright.serve.wire.checked_object` gives them; later ones lie on top.
        tags: categories that are in the image, and no others; None: not said.
        nothing: the image shows no object.
        done: somebody has said that nothing is missing.
        applied: ids of the latest operations.
        changed: by target (the id of an object, or one of ``PARTS``) the revision of its last change, and by which client.
    """

    rev: int = 0
    objects: tuple[dict[str, Any], ...] = ()
    tags: tuple[int, ...] | None = None
    nothing: bool = False
    done: bool = False
    applied: tuple[str, ...] = ()
    changed: dict[str, tuple[int, str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What the page sees."""
        tags = None if self.tags is None else list(self.tags)
        objects = list(self.objects)
        return {"rev": self.rev, "objects": objects, "tags": tags, "nothing": self.nothing, "done": self.done}

    def as_record(self) -> dict[str, Any]:
        """What is kept on disk."""
        changed = {target: list(change) for target, change in self.changed.items()}
        return self.as_json() | {"applied": list(self.applied), "changed": changed}

    @classmethod
    def of_record(cls, record: dict[str, Any], size: Size, categories: int) -> Annotations:
        """The inverse of :meth:`as_record`. Raises WireError, KeyError, TypeError or ValueError for what is none."""
        objects = tuple(checked_object(each, size, categories) for each in record["objects"])
        tags = None if record["tags"] is None else tuple(_checked_tags(record["tags"], categories))
        changed = {str(target): (int(rev), str(client)) for target, (rev, client) in record["changed"].items()}
        rev, applied = int(record["rev"]), tuple(map(str, record["applied"]))
        return cls(rev, objects, tags, bool(record["nothing"]), bool(record["done"]), applied, changed)

    def apply(
        self, operations: Sequence[Any], base_rev: int, client: str, size: Size, categories: int
    ) -> tuple[Annotations, list[str]]:
        """The labels after some operations, all or none of them, and the ids of those that were new.

        Args:
            operations: ``{"id", "op"}`` and ``object`` (put), ``object_id`` (delete), ``ids`` (order), ``tags``, or ``value``
                (nothing, done).
            base_rev: the revision that the client has seen.
            client: who it is.

        Raises:
            WireError: an operation that makes no sense.
            Conflict: another client has changed the same since ``base_rev``.
        """
        known = set(self.applied)
        new = [op for op in operations if checked_id(_field(op, "id")) not in known]
        changed = {_target(op) for op in new}
        clashes = [target for target in changed if self._is_newer(target, base_rev, client)]
        if clashes:
            raise Conflict(sorted(clashes))
        if not new:
            return self, []
        after = self
        for op in new:
            after = after._with(op, size, categories)
        if len(after.objects) > MAX_OBJECTS:
            raise WireError(f"an image may have {MAX_OBJECTS} objects, not {len(after.objects)}")
        if after.nothing and any(each["category"] for each in after.objects):
            raise WireError("an image with objects cannot be said to show nothing; delete them first")
        rev = self.rev + 1
        ids = [op["id"] for op in new]
        stamped = self.changed | dict.fromkeys(changed, (rev, client))
        return replace(after, rev=rev, applied=(*self.applied, *ids)[-REMEMBERED:], changed=stamped), ids

    def _is_newer(self, target: str, base_rev: int, client: str) -> bool:
        rev, by = self.changed.get(target, (0, client))
        return rev > base_rev and by != client

    def _with(self, op: dict[str, Any], size: Size, categories: int) -> Annotations:
        kind = op["op"]
        if kind == "put":
            new = checked_object(op.get("object"), size, categories)
            if any(each["id"] == new["id"] for each in self.objects):
                return replace(self, objects=tuple(new if each["id"] == new["id"] else each for each in self.objects))
            return replace(self, objects=(*self.objects, new))
        if kind == "delete":
            return replace(self, objects=tuple(each for each in self.objects if each["id"] != op["object_id"]))
        if kind == "order":
            return replace(self, objects=self._ordered(op.get("ids")))
        if kind == "tags":
            tags = op.get("tags")
            return replace(self, tags=None if tags is None else tuple(_checked_tags(tags, categories)))
        value = op.get("value")
        if not isinstance(value, bool):
            raise WireError(f"operation {op['id']}: value must be true or false")
        return replace(self, nothing=value) if kind == "nothing" else replace(self, done=value)

    def _ordered(self, ids: Any) -> tuple[dict[str, Any], ...]:
        """The objects in a new order; those that it does not name (another client's) come last, in the old one."""
        if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids) or len(set(ids)) < len(ids):
            raise WireError("order: ids must be a list of different texts")
        places = {name: place for place, name in enumerate(ids)}
        return tuple(sorted(self.objects, key=lambda each: places.get(each["id"], len(places))))


def _target(op: dict[str, Any]) -> str:
    """What an operation changes."""
    kind = op.get("op")
    if kind == "put":
        return checked_id(_field(op.get("object"), "id"))
    if kind == "delete":
        return checked_id(op.get("object_id"))
    if kind in PARTS:
        return str(kind)
    raise WireError(f"operation {op.get('id')}: op {kind!r} is none of put, delete, {', '.join(PARTS)}")


def _field(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise WireError("operations and objects must be JSON objects")
    return value.get(name)


def _checked_tags(tags: Any, categories: int) -> list[int]:
    right = isinstance(tags, list) and all(is_whole(tag) and 1 <= tag < categories for tag in tags)
    if not right or len(set(tags)) < len(tags):
        raise WireError(f"tags: must be null or a list of different categories 1..{categories - 1}")
    return sorted(tags)
