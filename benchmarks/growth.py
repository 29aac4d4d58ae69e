"""How the time and the memory of a store grow with its EEGs, and with the workers of a cluster.

    python benchmarks/growth.py      # a quarter of an hour; writes growth.md

The EEGs are links to 200 simulated files. Each store of the full profile's inputs is built by a
fresh process, alone on one core; its peak memory includes the files that it has mapped. Then 4,000
EEGs on a Dask cluster on this machine, of 1, 2 and 4 workers with one thread each: as Dask starts
them, and with `ALLOCATOR` in their environment.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import pandas as pd
from distributed import Client, LocalCluster
from timing import machine, markdown

from hmsutils import records, simulate, store
from hmsutils.competition import Competition
from hmsutils.representations import Image, WaveNetInput

SIZES, ON_CLUSTER = (1_000, 10_000, 17_089), 4_000
# Dask asks glibc to return memory after every array, which then has to be cleared anew.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)}


def links(source: Competition, n_eegs: int, root: Path) -> None:
    """A competition of `n_eegs` EEGs, all of them links to those of `source`."""
    (root / "train_eegs").mkdir(parents=True)
    table = pd.read_csv(source.root / "train.csv").drop_duplicates("eeg_id").head(200)
    table["eeg_label_offset_seconds"] = 0
    paths = [source.eeg(eeg_id).resolve() for eeg_id in table["eeg_id"]]
    rows = table.iloc[[i % len(table) for i in range(n_eegs)]]
    rows = rows.assign(eeg_id=range(1, n_eegs + 1), label_id=range(1, n_eegs + 1))
    rows.to_csv(root / "train.csv", index=False)
    for i in range(n_eegs):
        (root / "train_eegs" / f"{i + 1}.parquet").symlink_to(paths[i % len(paths)])


def build(root: str, out: str) -> None:
    """What the fresh process does; prints seconds, peak in MB, and files that are open after it
    and were not before."""
    windows, before = records.load_windows(Competition(Path(root), "local")), _open_files()
    began = time.perf_counter()
    arrays = _build(root, out, windows, n_jobs=1)
    seconds = time.perf_counter() - began
    del arrays
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(seconds, peak, _open_files() - before)


def _build(root: str | Path, out: str | Path, windows: pd.DataFrame, **options) -> dict:
    inputs = {"image": Image(), "eeg": WaveNetInput()}
    return store.build(Competition(Path(root), "local"), windows, inputs, out_dir=out, **options)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def on_cluster(n_workers: int, root: Path, out: Path) -> float:
    """Seconds that a cluster takes."""
    windows = records.load_windows(Competition(root, "local"))
    options = {"n_workers": n_workers, "threads_per_worker": 1, "processes": True}
    options |= {"dashboard_address": None, "memory_limit": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        client.run(lambda: __import__("hmsutils.store"))  # what compiles and imports, before
        began = time.perf_counter()
        with joblib.parallel_config(backend="dask"):
            _build(root, out, windows)
        return time.perf_counter() - began


def main() -> None:
    alone, shared = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = simulate.simulate_competition(folder / "source", 100, seed=3)
        for n_eegs in SIZES:
            root, out = folder / f"data{n_eegs}", folder / f"store{n_eegs}"
            links(source, n_eegs, root)
            command = [sys.executable, __file__, str(root), str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, peak, left_open = map(float, done.stdout.splitlines()[-1].split())
            alone[f"{n_eegs:,}"] = {
                "s": seconds, "ms per EEG": 1e3 * seconds / n_eegs, "peak, MB": peak,
                "files left open": left_open,
            }  # fmt: skip
        root = folder / "cluster"
        links(source, ON_CLUSTER, root)
        for column, variables in ("as Dask starts them", {}), ("with `ALLOCATOR`", ALLOCATOR):
            os.environ.update(variables)
            for n_workers in (1, 2, 4):
                out = folder / f"by {n_workers} {column}"
                seconds = on_cluster(n_workers, root, out)
                shared.setdefault(column, {})[f"{n_workers}"] = ON_CLUSTER / seconds
    text = [
        f"`python benchmarks/growth.py` on {machine()}",
        f"### EEGs in one process\n\n{markdown(pd.DataFrame(alone).T, 1)}",
        f"### {ON_CLUSTER:,} EEGs: EEGs/s by the number of Dask workers on this machine",
        markdown(pd.DataFrame(shared), 1),
    ]
    Path(__file__).with_suffix(".md").write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    build(*sys.argv[1:]) if len(sys.argv) > 1 else main()
