"""Long recordings on this machine: reading alone, and `hmsutils predict`, each in a fresh process.

    python benchmarks/recordings.py > benchmarks/recordings.md                # half an hour
    python benchmarks/recordings.py --hours 1 --steps 10 2               # every 10 s, every 2 s

EDFs of 19 channels at 256 Hz; ten simulated minutes are repeated. A process is measured as a whole,
imports and models too: real time over its wall time and over its CPU time, and its peak memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import edfio
import numpy as np
import pandas as pd
from scipy.signal import resample_poly
from timing import machine, markdown

from hmsutils import simulate
from hmsutils.competition import ELECTRODES

COLUMNS = """\
"× real time" is the length of the recording divided by the time that the work took: higher is
better; 150 means an hour in 24 s. Lower is better for the other columns. "CPU" adds up the time
of all cores. Each row is a process of its own, its imports and the loading of models included."""
READ = """
import sys
from hmsutils.recordings import read_recording
for _ in read_recording(sys.argv[1]).pieces():
    pass
"""


def write_edf(path: Path, hours: int) -> None:
    """One hour, over and over."""
    rng = np.random.default_rng(0)
    parts = [simulate.simulate_window(rng, balanced=True)[0][:, :19] for _ in range(12)]
    eeg_uv = resample_poly(np.nan_to_num(np.concatenate(parts)), 32, 25, axis=0).clip(-3e3, 3e3)
    options = {"physical_range": (-3e3, 3e3), "physical_dimension": "uV"}
    edfio.Edf(
        [
            edfio.EdfSignal(np.tile(x, 6), 256, label=name, **options)
            for x, name in zip(eeg_uv.T, ELECTRODES[:19], strict=True)
        ]
    ).write(path)
    hour, n = path.read_bytes(), 256 * 20
    n_records = int(hour[236:244]) * hours
    with open(path, "wb") as file:
        file.write(hour[:236] + f"{n_records:<8}".encode() + hour[244:n])
        for _ in range(hours):
            file.write(hour[n:])


def measure(command: list[str], hours: float) -> dict[str, float]:
    """A process of Python, from its start to its end."""
    began = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen([sys.executable, *command], stdout=nowhere, stderr=nowhere)
        _, status, used = os.wait4(process.pid, 0)
    wall_s, cpu_s = time.perf_counter() - began, used.ru_utime + used.ru_stime
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    row = {"× real time": 3600 * hours / wall_s, "× real time on one CPU": 3600 * hours / cpu_s}
    return row | {"wall, s": wall_s, "CPU, s": cpu_s, "peak, MB": used.ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, nargs="+", default=[1, 12, 24])
    parser.add_argument("--steps", type=int, nargs="+", default=[10])
    args, rows = parser.parse_args(), {}
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "long.edf", ["--out", f"{folder}/x.csv"]
        for hours in args.hours:
            write_edf(path, hours)
            rows[f"{hours} h, read"] = measure(["-c", READ, str(path)], hours)
            for step in args.steps:
                options = ["--step", str(step), *out, "--events", f"{folder}/x.tsv"]
                command = ["-m", "hmsutils", "predict", str(path), *options]
                rows[f"{hours} h, predict every {step} s"] = measure(command, hours)
                command += ["--report", f"{folder}/x.html"]
                rows[f"{hours} h, the same with the report"] = measure(command, hours)
    print(f"`python benchmarks/recordings.py` on {machine()}\n\n{COLUMNS}\n")
    print(markdown(pd.DataFrame(rows).T, 0))


if __name__ == "__main__":
    main()
