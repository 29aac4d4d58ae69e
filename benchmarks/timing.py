"""Variants of one task, timed in turns, so that a machine that gets slower does so for all."""

import os
import platform
import time
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd


def compare(
    variants: Mapping[str, Callable[[], object]],
    rounds: int = 9,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Times of variants by a clock in seconds, the first variant being the reference.

    Returns:
        Per variant: median, lowest and highest milliseconds, and how many times faster than the
        reference it is: the median over rounds of the ratio within a round.
    """
    for variant in variants.values():
        variant()
    times = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            began = clock()
            variant()
            times[name].append(1e3 * (clock() - began))
    ms = pd.DataFrame(times)
    return pd.DataFrame(
        {
            "ms": ms.median(),
            "low": ms.min(),
            "high": ms.max(),
            "times faster": ms.rdiv(ms.iloc[:, 0], axis=0).median(),
        }
    )


def markdown(table: pd.DataFrame, decimals: int = 2) -> str:
    """The table in Markdown."""
    rows = [["", *table.columns]]
    for name, row in table.iterrows():
        rows.append([name, *("" if np.isnan(v) else f"{v:,.{decimals}f}" for v in row)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


# Of the tables of `compare`.
COLUMNS = """\
Lower times (ms) are better. `ms` is the median of all rounds; `low` and `high` are the fastest and
the slowest round. `times faster` compares with the first row of the same table: above 1 is faster
than it, below 1 is slower."""


def machine() -> str:
    """The processor, its cores and the versions that matter, in one line."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    cpu = names[0].split(":")[1].strip() if names else platform.processor()
    return (
        f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, NumPy {np.__version__}"
    )


def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return file.read().splitlines()
    except OSError:
        return []
