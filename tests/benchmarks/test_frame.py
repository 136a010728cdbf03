"""What stands around every benchmark: options, kept rows, the table and the JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import tyro

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))
SHARED = {"measure", "frame", "context", "slides"}
"""Not benchmarks themselves."""


@pytest.fixture
def frame(script: Callable[[str, str], ModuleType]) -> ModuleType:
    return script("benchmarks", "frame")


@pytest.fixture
def measure(script: Callable[[str, str], ModuleType]) -> ModuleType:
    return script("benchmarks", "measure")


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in SHARED])
def test_every_benchmark_explains_itself(name: str, script: Callable[[str, str], ModuleType], capsys) -> None:
    module = script("benchmarks", name)
    with pytest.raises(SystemExit) as end:
        tyro.cli(module.Config, description=module.__doc__, args=["--help"])
    assert not end.value.code
    told = capsys.readouterr().out
    assert "--threads" in told
    assert "--json" in told
    assert f"python benchmarks/{name}.py" in " ".join(told.replace("│", " ").split())


def test_every_benchmark_is_in_the_readme() -> None:
    told = (Path(__file__).parents[2] / "benchmarks" / "README.md").read_text()
    for name in SCRIPTS:
        assert f"`{name}.py`" in told
        assert name in SHARED or f"python benchmarks/{name}.py" in told


def test_rows_are_made_once_and_shown_in_the_order_of_the_table(frame: ModuleType, tmp_path: Path) -> None:
    made: list[tuple[str, int]] = []

    def make(name: str, seed: int) -> dict[str, int]:
        made.append((name, seed))
        return {"score": seed}

    wanted = [("b: all", 1), ("a", 1), ("a", 0)]
    rows = frame.rows_of(tmp_path, ("a", "b: all"), wanted, make)
    assert made == wanted
    assert list(rows) == [("a", 0), ("a", 1), ("b: all", 1)]
    assert frame.by_name(rows) == {"a": {0: {"score": 0}, 1: {"score": 1}}, "b: all": {1: {"score": 1}}}

    (tmp_path / "row-a-s1.json").unlink()
    assert frame.rows_of(tmp_path, ("a", "b: all"), wanted, make) == rows
    assert made[3:] == [("a", 1)]


def test_rows_of_other_settings_are_not_mixed(frame: ModuleType, tmp_path: Path) -> None:
    def options(**changed) -> object:
        return frame.TrainingOptions(**{"data": tmp_path / "data", "out": tmp_path / "out", **changed})

    settings = options().start()
    assert settings == {"data": str(tmp_path / "data"), "sam": "nano", "split": "test"}
    assert options(seeds=(1, 2), rows=("a",), threads=1, json=tmp_path / "figures.json").start() == settings
    with pytest.raises(SystemExit, match="made with other sam, split; name another --out"):
        options(sam="random", split="val").start()
    assert json.loads((tmp_path / "out" / "settings.json").read_text()) == settings


def test_unknown_rows_are_refused(frame: ModuleType) -> None:
    frame.refuse_unknown("--rows", ("a",), {"a": 1, "b": 2})
    with pytest.raises(SystemExit, match="--rows: 'c' is none of: a, b"):
        frame.refuse_unknown("--rows", ("a", "c"), {"a": 1, "b": 2})


def test_a_table_is_printed_and_its_figures_written(frame: ModuleType, tmp_path: Path, capsys) -> None:
    table = frame.Table("Speed", ["", "ms"], [["this", "1.5"], ["that", "2.5"]], "Two ways.")
    path = tmp_path / "figures.json"
    frame.publish(frame.Options(json=path), table, {"size": 64}, ways={"this": 1.5, "that": 2.5})
    told = capsys.readouterr().out
    assert all(word in told for word in ("Speed", "this", "2.5", "Two ways."))
    figures = json.loads(path.read_text())
    assert list(figures) == ["settings", "machine", "ways"]
    assert figures["machine"]["cores"] >= 1
    assert figures["machine"]["torch"] in told

    frame.publish(frame.Options(), table, {})
    assert "Speed" in capsys.readouterr().out


def test_numbers_in_words(frame: ModuleType) -> None:
    assert frame.interval((0.0123, -0.0034, 0.0271)) == "+0.012 (-0.003 .. +0.027)"
    assert frame.interval((1.26, -3.0, 2.0), digits=1) == "+1.3 (-3.0 .. +2.0)"
    assert frame.interval(None) == ""
    assert frame.each_seed([0.5, 0.25]) == "0.500, 0.250"
    assert frame.each_seed([0.5]) == ""


def test_timings_are_of_at_least_one_call(frame: ModuleType) -> None:
    @dataclass(kw_only=True)
    class Config(frame.SamTimingOptions):
        one_by_one: tuple[int, ...] = (1, 2)

    assert Config(repeats=1).settings() == {
        "threads": 2,
        "repeats": 1,
        "sam": "nano",
        "size": None,
        "one_by_one": [1, 2],
    }
    with pytest.raises(SystemExit, match="--repeats must be at least 1"):
        Config(repeats=0)
    with pytest.raises(SystemExit, match="--one-by-one must be at least 1"):
        Config(one_by_one=(3, 0))


def test_the_first_call_is_not_counted(measure: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 100.0, 101.0, 101.0, 104.0, 104.0, 106.0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    assert measure.median_seconds(lambda: None, 3) == 2.0


@pytest.mark.slow
def test_a_process_of_its_own_has_its_own_peak(measure: ModuleType) -> None:
    held = bytearray(300 << 20)
    held[::4096] = b"x" * len(held[::4096])
    # Python and torch alone; what this process holds is not among it.
    assert 10 << 20 < measure.in_own_process(measure.peak_bytes) < measure.peak_bytes()
    with pytest.raises(ZeroDivisionError):
        measure.in_own_process(divmod, 1, 0)
