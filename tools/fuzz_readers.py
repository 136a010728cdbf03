"""Try what reads datasets on damaged ones: mutated JSON of each format, mutated images and masks, single flipped bits.

    python tools/fuzz_readers.py                                  # all of it, an hour or two
    python tools/fuzz_readers.py --json 500 --files 500 --bits 200 --seed 7

Every input must be read, or refused with a ``DataError`` whose lines are printable. Anything else is a finding: another
exception, a crash, more than 10 seconds, more than 2 GB, and pixels of a PNG other than those that were written. Findings are
printed with the input's number, from which ``--only KIND:NUMBER`` makes it again, and their inputs are kept in ``--keep``.
The same seed gives the same inputs.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from fuzz_changes import as_text, damaged, mutated, mutated_text, mutated_xml
from fuzz_datasets import write_base
from fuzz_pictures import pictures
from maskwright.data.check import examine
from maskwright.data.dataset import Dataset
from maskwright.data.image_reading import ImageReading
from maskwright.data.images import decode, image_size, read_image
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError

SECONDS = 10
MEGABYTES = 2000


@dataclass
class Config:
    json: int = 10_000
    """Mutated JSON files of each format."""
    files: int = 5_000
    """Mutated images and masks."""
    bits: int = 1_000
    """Flipped bits for each kind of PNG."""
    seed: int = 0
    """Decides every input."""
    kinds: tuple[str, ...] = ()
    """Only inputs of these kinds, such as yolo-rows; left out, all."""
    only: str = ""
    """One input alone, as it is named in a finding: KIND:NUMBER."""
    keep: Path = Path("fuzz-findings")
    """Folder for the inputs of findings."""


@dataclass(frozen=True)
class Finding:
    """An input that was neither read nor refused as it should be."""

    kind: str
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}: {self.what}"


# ------------------------------------------------------------------------------------------------------- the trials


def _most_memory() -> int:
    """The largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Trials:
    """Makes inputs by kind and number, and tries them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        os.environ["MASKWRIGHT_CACHE"] = str(folder / "cache")
        self.root = folder / "data"
        self.documents = write_base(self.root)
        self.pictures = pictures()
        self.pngs = [name for name in self.pictures if name.endswith(".png")]
        self.pixels = {name: samples(self._place(name, self.pictures[name])) for name in self.pngs}
        self.outcomes: Counter[str] = Counter()

    def kinds(self, json: int, files: int, bits: int) -> dict[str, int]:
        """How many inputs of each kind are tried."""
        return {**dict.fromkeys(self.documents, json), "file": files, **{f"bit-{name}": bits for name in self.pngs}}

    def input(self, kind: str, number: int) -> Path:
        """Write one input; the path of its file."""
        random = np.random.default_rng([self.seed, sum(kind.encode()), number])
        if kind in self.documents:
            document = self.documents[kind]
            path, content = self.root / document.file, document.content
            if isinstance(content, bytes):
                path.write_bytes(damaged(content, random))
            elif isinstance(content, str):
                path.write_bytes((mutated_xml if path.suffix == ".xml" else mutated_text)(content, random))
            else:
                path.write_bytes(as_text(mutated(content, random), random))
            return path
        if kind == "file":
            name = list(self.pictures)[random.integers(len(self.pictures))]
            return self._place(name, damaged(self.pictures[name], random))
        name = kind.removeprefix("bit-")
        data = bytearray(self.pictures[name])
        bit = int(random.integers(8 * len(data)))
        data[bit // 8] ^= 1 << (bit % 8)
        return self._place(name, bytes(data))

    def trial(self, kind: str, number: int) -> str | None:
        """What is wrong with how one input was handled; None where nothing is."""
        path = self.input(kind, number)
        start, before = time.monotonic(), _most_memory()
        try:
            what = self._dataset(self._loaded(kind, path)) if kind in self.documents else self._file(path)
        except Exception:
            return f"traceback: {traceback.format_exc(limit=-4)}"
        took = time.monotonic() - start
        if took > SECONDS:
            return f"took {took:.0f} s"
        # The most that this process has ever taken may be another's doing: what counts is that this input took more.
        used = _most_memory()
        return f"took {used} MB" if used > max(MEGABYTES, before) else what

    def _loaded(self, kind: str, path: Path) -> Path:
        """What is read where a file of a dataset is damaged."""
        return self.root / self.documents[kind].load if self.documents[kind].load else path

    def _dataset(self, path: Path) -> str | None:
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        try:
            report = examine(Dataset.load(path))
            lines = [*report.problems, *report.warnings]
            self.outcomes["refused by the check" if report.problems else "accepted"] += 1
        except DataError as error:
            lines = error.problems
            self.outcomes["refused by the reader"] += 1
        return next((f"not printable: {line!r}" for line in lines if not line.isprintable()), None)

    def _file(self, path: Path) -> str | None:
        accepted = 0
        for read in (image_size, read_image, chosen, read_mask, samples):
            try:
                values = read(path)
            except DataError as error:
                if not all(line.isprintable() for line in error.problems):
                    return f"not printable: {error.problems}"
                continue
            accepted += 1
            if read is samples and path.name in self.pixels and not np.array_equal(values, self.pixels[path.name]):
                return "other values were read without a word"
        self.outcomes["accepted" if accepted > 1 else "refused"] += 1
        return None

    def _place(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


def samples(path: Path) -> Any:
    """What is in the file, before it becomes RGB."""
    return np.array(decode(path, ImageReading(page=0)).pixels)


def chosen(path: Path) -> Any:
    """One channel of one page, scaled by a range."""
    return read_image(path, ImageReading(page=1, channels=(1, 0, 1), intensity=(10.0, 50.0)))


def run(trials: Trials, kind: str, numbers: range, report: Callable[[Finding], None]) -> Counter[str]:
    """Try inputs of one kind in a process of their own, a new one after each crash or hang. Returns how they ended."""
    outcomes: Counter[str] = Counter()
    context, first = multiprocessing.get_context("fork"), numbers.start
    while first < numbers.stop:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(trials, kind, range(first, numbers.stop), there))
        process.start()
        there.close()
        current = first
        while True:
            # Twice the limit: what only takes long reports that itself.
            message = None
            if here.poll(2 * SECONDS + 5):
                try:
                    message = here.recv()
                except EOFError:
                    message = "died"
            if message is None or message == "died":
                process.kill() if message is None else None
                process.join()
                died = f"crash (exit status {process.exitcode})"
                report(Finding(kind, current, "hangs" if message is None else died))
                first = current + 1
                break
            if isinstance(message, Counter):
                process.join()
                return outcomes + message
            number, what = message
            if what:
                report(Finding(kind, number, what))
            current = number + 1
    return outcomes


def _work(trials: Trials, kind: str, numbers: range, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in numbers:
        pipe.send((number, trials.trial(kind, number)))
    pipe.send(trials.outcomes)


def main(config: Config) -> int:
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), config.seed)

        def report(finding: Finding) -> None:
            findings.append(finding)
            print(finding, flush=True)
            config.keep.mkdir(parents=True, exist_ok=True)
            path = trials.input(finding.kind, finding.number)
            shutil.copy(path, config.keep / f"{finding.kind}-{finding.number}-{path.name}")

        if config.only:
            kind, _, number = config.only.partition(":")
            print(trials.trial(kind, int(number)) or "nothing is wrong")
            return 0
        for kind, count in trials.kinds(config.json, config.files, config.bits).items():
            if config.kinds and kind not in config.kinds:
                continue
            start = time.monotonic()
            outcomes = run(trials, kind, range(count), report)
            listed = ", ".join(f"{count:,} {name}" for name, count in outcomes.most_common())
            print(f"{kind}: {count:,} in {time.monotonic() - start:.0f} s: {listed}", flush=True)
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
