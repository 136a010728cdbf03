"""How the benchmarks measure: loading a SAM, time, memory, and the machine in words."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from maskwright.sam.sam import Sam
from maskwright.sam.weights import nano_config

T = TypeVar("T")


def load_sam(source: str, size: int | None) -> Sam:
    """What ``Sam.load`` takes, or ``random``: nano's architecture with random weights, which is as fast."""
    return Sam.from_config(nano_config(), size=size) if source == "random" else Sam.load(source, size=size)


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median over ``repeats`` calls, after one that is not counted."""
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def in_own_process(call: Callable[..., T], *args: Any) -> T:
    """What a call returns or raises, in a fresh process (a forked one would start with this one's memory): peaks are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *args).result()


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    # Linux begins a new process' `ru_maxrss` with the size of the one that started it; this is its own.
    if peak := peak_bytes_of("self"):
        return peak
    # macOS counts in bytes, all others in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_bytes_of(process: int | str) -> int:
    """Largest resident size so far of a process that runs; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    # A process that has just ended has no memory any more.
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def private_bytes() -> int:
    """What this process holds now in memory of its own: without mapped files, which the system can take back. 0 where it does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
