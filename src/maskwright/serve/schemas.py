"""The JSON of the API as JSON Schema (2020-12). Answers hold what is named here and nothing else; of requests the rest is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskwright.data.labels import IGNORE
from maskwright.serve.annotations import PARTS
from maskwright.serve.wire import MAX_OBJECTS, MAX_POINTS, MAX_RUNS, SOURCES

Schema = Mapping[str, Any]


def record(fields: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, *, more: bool = False) -> Schema:
    """An object with these fields; ``more``: others are allowed."""
    properties = {**fields, **(optional or {})}
    return {"type": "object", "properties": properties, "required": [*fields], "additionalProperties": more}


def request(optional: Mapping[str, Schema], required: Mapping[str, Schema] | None = None) -> Schema:
    """The body of a request; what else it holds is ignored."""
    return record(required or {}, optional, more=True)


def a_list(of: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": of, **more}


def numbers(count: int) -> Schema:
    return a_list({"type": "number"}, minItems=count, maxItems=count)


def one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def described(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text}


TEXT: Schema = {"type": "string"}
ID: Schema = {"type": "string", "minLength": 1, "maxLength": 64}
WHOLE: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
TRUTH: Schema = {"type": "boolean"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
CLICK: Schema = {
    "type": "array",
    "prefixItems": [NUMBER, NUMBER, one_of(0, 1)],
    "minItems": 3,
    "maxItems": 3,
    "description": "x, y, and 1 on the object or 0 off it",
}
BOX: Schema = described(numbers(4), "x0, y0, x1, y1")
CATEGORY: Schema = {"type": "integer", "minimum": 0, "maximum": IGNORE}
ERROR: Schema = ref("Error")
CLICKS: Schema = a_list(CLICK, maxItems=MAX_POINTS)


def _object(more: Mapping[str, Schema], sources: tuple[str, ...]) -> Schema:
    """An object of each kind."""
    places: dict[str, tuple[str, Schema]] = {
        "mask": ("mask", ref("Mask")),
        "box": ("xyxy", BOX),
        "scribble": ("points", a_list(numbers(2), minItems=1, maxItems=MAX_POINTS)),
        "point": ("xy", numbers(2)),
    }
    head = {"id": ID, "category": CATEGORY, "source": one_of(*sources), **more}
    kinds = [{"kind": {"const": kind}, name: schema} for kind, (name, schema) in places.items()]
    return {"oneOf": [record({**head, **kind}) for kind in kinds]}


_PROPOSAL = {"id": ID, "kind": {"const": "mask"}, "category": CATEGORY, "source": {"const": "proposal"}}
_OPERATIONS: list[Schema] = [
    record({"id": ID, "op": {"const": "put"}, "object": request({}, {"id": ID})}, more=True),
    record({"id": ID, "op": {"const": "delete"}, "object_id": ID}, more=True),
    record({"id": ID, "op": {"const": "order"}, "ids": a_list(TEXT, uniqueItems=True)}, more=True),
    record({"id": ID, "op": {"const": "tags"}, "tags": or_null(a_list(WHOLE, uniqueItems=True))}, more=True),
    record({"id": ID, "op": one_of("nothing", "done"), "value": TRUTH}, more=True),
]

COMPONENTS: Mapping[str, Schema] = {
    "Error": record({"error": TEXT}),
    "Mask": described(
        record(
            {
                "box": described(a_list(WHOLE, minItems=4, maxItems=4), "x, y, width, height"),
                "counts": a_list(WHOLE, maxItems=MAX_RUNS),
            }
        ),
        "run lengths of zeros and ones in turn, row by row within the box; the first counts zeros",
    ),
    "Object": _object({}, SOURCES),
    "Proposal": record({**_PROPOSAL, "mask": ref("Mask"), "score": SHARE}),
    "Candidate": record({"mask": ref("Mask"), "score": NUMBER}),
    "Annotations": described(
        record(
            {
                "rev": WHOLE,
                "objects": a_list(ref("Object"), maxItems=MAX_OBJECTS),
                "tags": or_null(a_list(WHOLE)),
                "nothing": TRUTH,
                "done": TRUTH,
            }
        ),
        "labels of an image; later objects lie on top; tags: all categories that are in the image, or null: not said",
    ),
    "Operation": described(
        {"oneOf": _OPERATIONS}, f"a change; its id is new. PUT replaces; {', '.join(PARTS)} are set"
    ),
    "Conflict": record({"error": TEXT, "theirs": ref("Annotations"), "conflicts": a_list(TEXT)}),
    "Category": record({"id": WHOLE, "name": TEXT, "color": {"type": "string", "pattern": "^#[0-9a-f]{6}$"}}),
    "Sam": record({"id": TEXT, "state": one_of("loading", "ready", "absent", "failed"), "message": TEXT}),
    "Run": record({"id": TEXT, "recipe": TEXT, "score": or_null(NUMBER)}),
    "Job": record(
        {
            "id": TEXT,
            "recipe": TEXT,
            "minutes": NUMBER,
            "started": described(NUMBER, "seconds since 1970"),
            "state": one_of("running", "done", "stopped", "failed"),
            "step": WHOLE,
            "steps": WHOLE,
            "left_seconds": NUMBER,
            "score": or_null(NUMBER),
            "curve": described(a_list(numbers(2)), "step and validation score"),
            "run": described(or_null(TEXT), "its id, once there is a model"),
        }
    ),
    "Listed": record(
        {
            "id": TEXT,
            "name": TEXT,
            "width": or_null(WHOLE),
            "height": or_null(WHOLE),
            "split": TEXT,
            "state": one_of("unlabelled", "weak", "mask", "checked"),
            "kinds": a_list(TEXT),
            "draft": described(TRUTH, "it has masks that are not marked done"),
            "rev": WHOLE,
            "suggestion": described(
                or_null(record({"rank": WHOLE, "kind": TEXT, "reason": TEXT, "look": TRUTH})),
                "what `maskwright next` or `audit` says of it: its place from 1, the kind of label or of error, why, and whether its mask "
                "is to be looked at",
            ),
        }
    ),
}
"""What several addresses share, by name."""

PROMPTS: Schema = request(
    {
        "points": CLICKS,
        "box": or_null(BOX),
        "mask": described(or_null(ref("Mask")), "an answer so far, to be refined"),
        "all": described(TRUTH, "three candidates of one click, the likeliest first"),
        "closer": described(or_null(TRUTH), "look closer at the box, on a crop; null: where it is small"),
        "seq": described(
            {}, "comes back with the answer; a newer question about the image makes one with a seq needless"
        ),
    }
)
"""A question to SAM: at least a point, a box or a mask."""

ANSWER: Schema = {
    "oneOf": [
        record({"seq": {}, "candidates": a_list(ref("Candidate")), "ms": NUMBER}),
        record({"seq": {}, "superseded": {"const": True}, "candidates": a_list({}, maxItems=0)}),
    ]
}
"""SAM's answer, or that a newer question has taken its place."""

CORRECTED: Schema = request(
    {
        "points": CLICKS,
        "box": or_null(BOX),
        "mask": described(or_null(ref("Mask")), "to be corrected, instead of points and box"),
    }
)
"""A question to a click agent: points and a box, or a mask."""

CORRECTION: Schema = record(
    {
        "mask": described(or_null(ref("Mask")), "null: clicks and box show nothing"),
        "clicks": described(CLICKS, "the agent's own that were kept"),
        "quality": described(or_null(NUMBER), "the Dice that the agent expects"),
    }
)
"""A click agent's answer; of a mask that was sent and that no click improved it is the same."""

PROPOSALS: Schema = record({"objects": a_list(ref("Proposal"))})


def json_of(schema: Schema) -> Mapping[str, Schema]:
    """A body of JSON."""
    return {"application/json": schema}
