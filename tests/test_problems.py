"""A record is its line of text, faults of one kind are shown as a group, and nothing on screen is obeyed by a terminal."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwright.errors import DataError
from maskwright.problems import Problem, fix_command, grouped, lines, printable, problems_of, warnings_of


def test_a_record_is_one_line_of_file_place_message_and_remedy() -> None:
    problem = Problem("is 3", kind="size", file="a.json", place="images[0].width", remedy="write 4")
    assert problem == "a.json: images[0].width: is 3; write 4"
    assert (problem.kind, problem.severity, problem.fix) == ("size", "problem", None)
    assert pickle.loads(pickle.dumps(problem)).kind == "size"
    assert problem.with_context("(of b)") == "a.json: images[0].width: is 3 (of b); write 4"
    assert Problem("a line of old").message == "a line of old"


def test_what_fix_mends_names_the_command() -> None:
    problem = Problem("2 annotations are crowds", kind="crowd", fix="--crowd objects", data="my cells/a.json")
    assert (
        problem.remedy == "mend it with: maskwright data fix 'my cells/a.json' --out 'my cells-fixed' --crowd objects"
    )
    assert fix_command("polyps/") == "maskwright data fix polyps/ --out polyps-fixed"
    assert fix_command(".").startswith("maskwright data fix . --out ../")


def test_many_of_one_kind_are_shown_as_three_and_a_count() -> None:
    size = [Problem(f"is {i}", kind="size", severity="warning") for i in range(5)]
    plain = [f"samples[{i}].id: 'n{i}' is missing" for i in range(4)]
    groups = grouped([*size, *plain])
    assert [(group.kind, group.severity, len(group.problems)) for group in groups] == [
        ("other", "problem", 4),
        ("size", "warning", 5),
    ]
    assert lines(plain) == [*plain[:3], "... and 1 more of this kind"]
    assert lines(plain, None) == plain
    error = DataError(plain, "here")
    assert str(error).startswith("4 problems in here:\n  - samples[0]")
    assert len(str(error).splitlines()) == 5
    assert len(error.text(None).splitlines()) == 5
    assert problems_of([*size, Problem("x")]) == ["x"]
    assert len(warnings_of([*size, Problem("x")])) == 5


@pytest.mark.parametrize("text", ["\x1b[31mred\x1b[0m", "a\nb", "\u202egnp.exe", "\x00", "\ud800", "\x9b1m"])
def test_what_a_terminal_obeys_is_escaped(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert "\\" in shown
    assert Problem(text, file=text, place=text, remedy=text).isprintable()


@given(st.text())
def test_printable_texts_stay_and_all_others_become_printable(text: str) -> None:
    assert not set(printable(text)) & set("\n\r\x1b\x7f\x9b\u202e\u2028")
    if text.isprintable():
        assert printable(text) == text
