"""Train the bundled model ``nano`` on photographs with masks (packs, see ``photo_packs.py``) and on pictures it draws itself.

    python tools/pretrain_nano.py --out runs/nano --packs packs/*.npz --trunk lite0.safetensors     # new heads on a pretrained trunk
    python tools/pretrain_nano.py --out runs/nano --packs packs/*.npz --init runs/first/model       # go on from weights
    python tools/pretrain_nano.py --out runs/nano ... --resume                                      # continue a killed run

1. Ghosts (new heads only): prompt encoder and decoder learn to follow boxes and clicks about ellipses that are not in the picture. A
   decoder with random weights ignores its prompts for thousands of steps, because "what stands out" pays sooner; here nothing does.
2. Everything together on a small canvas: boxes and clicks with corrections about objects, pieces of objects, several as one, things
   from close by and many in one picture; and episodes in context, with references and now and then nothing to be found.
3. The same on the full canvas.

A run is a function of its settings: a resumed one equals one that was never stopped. The averaged weights are written to
``OUT/model`` in float16. Nothing that results are measured on may be among the packs.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import tyro
from torch import Tensor

from maskwright.engine.run import Run
from maskwright.engine.values import settings_of
from maskwright.errors import canvas_rule, require
from maskwright.methods.zero_shot.prompted import ask_boxes, ask_clicks
from maskwright.sam.sam import Sam
from nano_targets import choose_objects
from nano_trainer import Config, Trainer
from nano_views import look
from photo_packs import Pack


def check(config: Config) -> None:
    """Raise a MaskwrightError that lists what cannot be."""
    rows = 4 * config.parts
    require(
        canvas_rule("small", config.small)
        | canvas_rule("size", config.size)
        | {
            f"--batch {config.batch}: must be a multiple of {2 * rows}": config.batch > 0
            and config.batch % (2 * rows) == 0,
            f"--small-share {config.small_share}: must lie in 0..1": 0 <= config.small_share <= 1,
            f"--save-every {config.save_every}: must be a multiple of --log-every {config.log_every}": config.log_every
            > 0
            and config.save_every % config.log_every == 0,
            "give --init or --trunk, not both": config.init is None or config.trunk is None,
        }
    )


@torch.inference_mode()
def validate(model: Any, packs: list[Pack], size: int, images: int = 12, seed: int = 987_654) -> dict[str, float]:
    """Mean IoU on pictures that are kept out of the training: the exact box, one and three clicks of the oracle."""
    sam = Sam(model, size)
    scores: dict[str, list[Tensor]] = {"val/box": [], "val/click1": [], "val/click3": []}
    generator = torch.Generator(sam.device).manual_seed(seed)
    with sam.device:
        for pack in packs:
            ids = pack.ids[:images].long()
            views = torch.eye(2, 3).expand(len(ids), -1, -1)
            pictures, ids = look(pack.images[:images], ids, size, views, generator)
            targets, valid = choose_objects(ids, 2, generator)
            image, place = valid.nonzero(as_tuple=True)
            if not len(image):
                continue
            truths, embedding = targets[image, place], sam.encode(pictures)[image]
            known = torch.ones_like(truths)
            scores["val/box"].append(ask_boxes(sam, embedding, truths, known).iou)
            clicks = ask_clicks(sam, embedding, truths, known, clicks=3).iou
            scores["val/click1"].append(clicks[:, 0])
            scores["val/click3"].append(clicks[:, 2])
    return {name: float(torch.cat(values).mean()) for name, values in scores.items() if values}


def fit(trainer: Trainer, run: Run, config: Config) -> None:
    """Train to the end, from the newest checkpoint if there is one."""
    checkpoint = run.load_checkpoint()
    if checkpoint is not None:
        trainer.load(checkpoint.tensors, checkpoint.state)
    first = checkpoint.step if checkpoint else 0
    means: dict[str, list[Tensor]] = {}
    for step in range(first, trainer.total):
        for name, value in trainer.step(step).items():
            means.setdefault(name, []).append(value)
        done = step + 1
        if done - first == min(20, trainer.total - first):
            print(trainer.watch.table(done - first), flush=True)
        if done % config.log_every == 0 or done == trainer.total:
            report = {name: float(torch.stack(values).nanmean()) for name, values in means.items()}
            means.clear()
            run.log(done, **report)
            print(f"step {done}  " + "  ".join(f"{k} {v:.3f}" for k, v in sorted(report.items())), flush=True)
        last = done == trainer.total
        if done % config.validate_every == 0 or last:
            scores = validate(copy.deepcopy(trainer.ema.model), trainer.held_out, config.size)
            run.log(done, **scores)
            print(f"step {done}  " + "  ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)
        if done % config.save_every == 0 or last:
            run.save_checkpoint(done, *trainer.state())
            trainer.export(config.out / "model")


def main(config: Config) -> None:
    check(config)
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    settings = settings_of(config, "resume", "overwrite", "out", "threads", "device")
    # Before a run is made, or deleted: what it starts from may not be there.
    trainer = Trainer(config)
    with Run.create(config.out, settings, resume=config.resume, overwrite=config.overwrite) as run:
        fit(trainer, run, config)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
