"""Fresh processes: how long imports take, and whether a store's memory grows with its EEGs.

    python benchmarks/processes.py      # two minutes

The EEGs are links to the same few simulated files. Each store is built in one process, so the peak
is that of the process, its mapped files included.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from timing import compare, machine, markdown

from hmsutils import records, simulate, store
from hmsutils.competition import Competition
from hmsutils.representations import Image, WaveNetInput

SIZES = (100, 2000)


def copies(source: Competition, n_eegs: int, root: Path) -> None:
    """A competition of `n_eegs` EEGs, all of them links to those of `source`."""
    (root / "train_eegs").mkdir(parents=True)
    table = pd.read_csv(source.root / "train.csv").drop_duplicates("eeg_id")
    table["eeg_label_offset_seconds"] = 0
    paths = [source.eeg(eeg_id).resolve() for eeg_id in table["eeg_id"]]
    rows = table.iloc[[i % len(table) for i in range(n_eegs)]]
    rows = rows.assign(eeg_id=range(1, n_eegs + 1), label_id=range(1, n_eegs + 1))
    rows.to_csv(root / "train.csv", index=False)
    for i in range(n_eegs):
        (root / "train_eegs" / f"{i + 1}.parquet").symlink_to(paths[i % len(paths)])


def build(root: str, out: str) -> None:
    """What the fresh process does; prints its peak in MB."""
    competition = Competition(Path(root), "local")
    windows = records.load_windows(competition)
    inputs = {"image": Image(), "eeg": WaveNetInput()}
    store.build(competition, windows, inputs, out_dir=out, n_jobs=1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def imports() -> pd.DataFrame:
    """Starting Python, and importing on top of it."""
    lines = {
        "Python alone": "pass",
        "`import hmsutils`": "import hmsutils",
        "`from hmsutils import spectrograms`": "from hmsutils import spectrograms",
        "`from hmsutils import models` (TensorFlow)": "from hmsutils import models",
    }
    table = compare(
        {k: lambda v=v: subprocess.run([sys.executable, "-c", v], capture_output=True, check=True)
         for k, v in lines.items()},
        rounds=5,
    )  # fmt: skip
    return table.drop(columns="times faster")


def main() -> None:
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = simulate.simulate_competition(folder / "source", 4, seed=3)
        for n_eegs in SIZES:
            root, out = folder / f"data{n_eegs}", folder / f"store{n_eegs}"
            copies(source, n_eegs, root)
            command = [sys.executable, __file__, str(root), str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            stored = sum(path.stat().st_size for path in out.glob("*/*.npy")) / 2**20
            rows[f"{n_eegs:,} EEGs"] = {
                "peak of the process, MB": float(done.stdout),
                "stored, MB": stored,
            }
    print(f"`python benchmarks/processes.py` on {machine()}\n")
    print(f"### Start\n\n{markdown(imports(), 0)}\n")
    print(f"### Memory of `store.build`\n\n{markdown(pd.DataFrame(rows).T, 0)}\n")


if __name__ == "__main__":
    build(*sys.argv[1:]) if len(sys.argv) > 1 else main()
