"""Looking ahead changes when work is done, and never what comes of it: order, errors, and how much is under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.data.lookahead import ahead, ahead_readable
from maskwright.errors import DataError

WORKERS = st.none() | st.integers(0, 3)


@given(items=st.lists(st.integers(), max_size=20), workers=WORKERS, most=st.none() | st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_the_results_are_those_of_map_in_order(items: list[int], workers: int | None, most: int | None) -> None:
    assert list(ahead(lambda item: -item, items, workers, most)) == [-item for item in items]


@given(most=st.integers(1, 5), workers=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_items_are_taken_in_the_callers_thread_and_never_more_than_asked_for(most: int, workers: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(12):
            assert threading.current_thread() is threading.main_thread()
            taken += 1
            yield number

    for done, result in enumerate(ahead(lambda item: item, items(), workers, most)):
        assert result == done
        assert done < taken <= done + most


def test_work_is_done_by_threads_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=10)  # breaks unless three are at work at once
    assert len(list(ahead(lambda _: meeting.wait(), range(6), workers=3, most=3))) == 6


def test_an_early_stop_cancels_what_waits() -> None:
    let_go, begun = threading.Event(), []

    def work(item: int) -> int:
        begun.append(item)
        return item if item == 0 else int(let_go.wait(10))

    results = ahead(work, range(100), workers=1, most=4)
    assert next(results) == 0
    threading.Timer(0.05, let_go.set).start()
    results.close()
    assert set(begun) <= {0, 1}


def failing(item: int) -> int:
    if item % 3 == 1:
        raise DataError([f"{item} is bad", "and more"])
    return item


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_where_its_result_would_have_come(workers: int) -> None:
    results = ahead(failing, range(6), workers, 6)
    assert next(results) == 0
    with pytest.raises(DataError, match="1 is bad"):
        next(results)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_left_out_and_told(workers: int) -> None:
    unreadable: list[str] = []
    assert list(ahead_readable(failing, range(6), workers, 3, unreadable)) == [0, 2, 3, 5]
    assert unreadable == ["1 is bad", "and more", "4 is bad", "and more"]
    with pytest.raises(DataError, match="1 is bad"):
        list(ahead_readable(failing, range(6), workers, 3, None))
    with pytest.raises(ZeroDivisionError):
        list(ahead_readable(lambda item: 1 // item, range(3), workers, 3, unreadable))
