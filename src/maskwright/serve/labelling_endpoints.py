"""What the addresses of :mod:`maskwright.serve.labelling` take and give."""

from __future__ import annotations

from collections.abc import Sequence

from maskwright.serve.endpoints import BINARY, Endpoint
from maskwright.serve.jobs import MAX_MINUTES, RECIPES
from maskwright.serve.labelling import GIVEN, PAGE, Labelling
from maskwright.serve.questions import IMAGE
from maskwright.serve.schemas import (
    ID,
    NUMBER,
    PROPOSALS,
    TEXT,
    WHOLE,
    a_list,
    json_of,
    one_of,
    or_null,
    record,
    ref,
    request,
)


def labelling_endpoints(at: Labelling) -> Sequence[Endpoint]:
    """All addresses of a dataset that is labelled, but for the page itat."""
    return [*_of_dataset(at), *_of_labels(at), *at.questions.endpoints(), *_of_jobs(at)]


def _of_dataset(at: Labelling) -> Sequence[Endpoint]:
    group, missing = "Dataset", {404: "there is no such image"}
    states = record(dict.fromkeys(("unlabelled", "weak", "mask", "checked"), WHOLE))
    project = {
        "name": TEXT,
        "key": TEXT,
        "images": WHOLE,
        "categories": a_list(ref("Category")),
        "splits": a_list(TEXT),
        "states": states,
        "mask_kind": one_of("semantic", "instance"),
        "sam": ref("Sam"),
        "runs": a_list(ref("Run")),
        "agent": or_null(ref("Run")),
        "limits": record({"objects": WHOLE, "points": WHOLE, "body": WHOLE}),
        "version": TEXT,
    }
    level = record({"scale": NUMBER, "width": WHOLE, "height": WHOLE})
    image = {"id": TEXT, "name": TEXT, "width": WHOLE, "height": WHOLE, "levels": a_list(level), "tile": WHOLE}
    images = record({"images": a_list(ref("Listed")), "next": or_null(WHOLE), "total": WHOLE})
    pictures = {"image/png": BINARY, "image/jpeg": BINARY}
    a_category = json_of(request({}, {"name": TEXT}))
    return [
        Endpoint("GET", "/api/project", at.show_project, "The dataset and its models", group, json_of(record(project))),
        Endpoint(
            "POST",
            "/api/categories",
            at.add_category,
            "A new category",
            group,
            json_of(ref("Category")),
            a_category,
            errors={422: "a name that is taken or cannot be one"},
        ),
        Endpoint(
            "GET",
            "/api/images",
            at.list_images,
            "A piece of the list of images",
            group,
            json_of(images),
            query={"cursor": WHOLE, "limit": {**WHOLE, "maximum": PAGE}},
            errors={400: "no whole numbers"},
        ),
        Endpoint(
            "GET", IMAGE, at.show_image, "An image's size and pyramid", group, json_of(record(image)), errors=missing
        ),
        Endpoint(
            "GET",
            f"{IMAGE}/tiles/{{level:int}}/{{column:int}}/{{row:int}}",
            at.tile,
            "A tile of an image's pyramid",
            group,
            pictures,
            errors={404: "there is no such image or tile"},
        ),
        Endpoint("GET", f"{IMAGE}/thumbnail", at.thumbnail, "A small picture", group, pictures, errors=missing),
    ]


def _of_labels(at: Labelling) -> Sequence[Endpoint]:
    group, missing = "Labels", {404: "there is no such image"}
    change = {"base_rev": WHOLE, "client_id": ID, "operations": a_list(ref("Operation"))}
    changed = record({"rev": WHOLE, "applied": a_list(ID), "annotations": ref("Annotations")})
    return [
        Endpoint(
            "GET",
            f"{IMAGE}/annotations",
            at.annotations,
            "Labels of an image",
            group,
            json_of(ref("Annotations")),
            errors=missing,
        ),
        Endpoint(
            "POST",
            f"{IMAGE}/operations",
            at.change,
            "Change labels of an image, all operations or none",
            group,
            json_of(changed),
            json_of(request({}, change)),
            errors={
                **missing,
                409: ("another client has changed the same since base_rev", ref("Conflict")),
                422: "an operation that makes no sense",
                428: "base_rev is missing",
            },
            text="base_rev is the revision that the client has seen. An operation whose id is known was done before and is left "
            "out. Changes of different objects are merged. What is answered is on disk.",
        ),
        Endpoint(
            "POST",
            f"{IMAGE}/propose",
            at.propose,
            "Objects that a trained run sees, or those of another image carried over",
            "Questions",
            json_of(PROPOSALS),
            json_of(request({"run": TEXT, "image": TEXT}, {"from": one_of("run", "example")})),
            errors={
                404: "no such image or run",
                422: "no masks to carry over, or a model of other categories",
                503: "SAM is not there",
            },
            text=f"from 'run' takes run: an id of the project's runs ({GIVEN!r}: the one of --run). from 'example' takes image: the "
            "one whose masks SAM is shown.",
        ),
    ]


def _of_jobs(at: Labelling) -> Sequence[Endpoint]:
    group, missing = "Trainings", {404: "there is no such training"}
    minutes = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_MINUTES}
    start = request({}, {"recipe": one_of(*RECIPES), "minutes": minutes})
    jobs, job, log = record({"jobs": a_list(ref("Job"))}), json_of(ref("Job")), record({"text": TEXT, "next": WHOLE})
    path = "/api/jobs/{job}"
    return [
        Endpoint("GET", "/api/jobs", at.list_jobs, "Trainings, the newest first", group, json_of(jobs)),
        Endpoint(
            "POST",
            "/api/jobs",
            at.start_job,
            "Train on the labels as they are",
            group,
            job,
            json_of(start),
            errors={409: "a training is under way", 422: "no such recipe or time"},
        ),
        Endpoint(
            "POST", f"{path}/stop", at.stop_job, "End a training", group, job, json_of(request({})), errors=missing
        ),
        Endpoint(
            "GET",
            f"{path}/log",
            at.job_log,
            "A piece of a training's output",
            group,
            json_of(log),
            query={"from": WHOLE},
            errors=missing | {400: "no whole number"},
        ),
    ]
