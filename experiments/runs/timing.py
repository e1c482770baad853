"""How benchmarks measure: calls in turn, memory as compiled, one line for each figure."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def alternate(repeats: int, *calls: Callable[[], Any]) -> list[float]:
    """The median seconds of each call, all called in turn after one warm-up each."""
    for call in calls:
        jax.block_until_ready(call())
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def temporary_gigabytes(function: Callable, *arguments: Any) -> tuple[float, Callable]:
    """What a compiled function needs beside its arguments and result, and that function.

    Arguments are arrays or their shapes (`jax.ShapeDtypeStruct`).
    """
    compiled = jax.jit(function).lower(*arguments).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes / 1e9, compiled


def report(what: str, value: float, unit: str, bar: str, met: bool) -> None:
    """One line of the table."""
    print(f"{what:<58} {value:>9.2f} {unit:<4} {bar:<10} {'met' if met else 'MISSED'}", flush=True)
