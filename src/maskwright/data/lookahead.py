"""Work done ahead in threads, its results in order: images are decoded while the network computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from maskwright.errors import DataError

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    function: Callable[[T], R], items: Iterable[T], workers: int | None = None, most: int | None = None
) -> Iterator[R]:
    """``map(function, items)`` by threads, in the order of the items. Where the caller stops early, waiting items are cancelled.

    Args:
        function: called in the threads. An exception that it raises is raised in place of its result.
        items: any number; they are taken in the caller's thread, one by one.
        workers: threads; 0 works in the caller's thread; left out, one for each processor, but no more than 8.
        most: items that are under way at once: waiting for a thread, worked on, or done and waiting for their turn. It
            bounds the memory. Left out, four for each thread.
    """
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    most = 4 * workers if most is None else most
    if workers == 0:
        yield from map(function, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def ahead_readable(
    function: Callable[[T], R], items: Iterable[T], workers: int | None, most: int | None, unreadable: list[str] | None
) -> Iterator[R]:
    """As :func:`ahead`, but an item whose function raises DataError is left out, and its problems go to ``unreadable``.

    Where ``unreadable`` is None the error is raised.
    """

    def attempt(item: T) -> R | DataError:
        try:
            return function(item)
        except DataError as error:
            return error

    for result in ahead(attempt, items, workers, most):
        if not isinstance(result, DataError):
            yield result
        elif unreadable is None:
            raise result
        else:
            unreadable += result.problems
