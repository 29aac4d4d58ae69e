"""Fresh processes: how long Python, imports and a first prediction take.

python benchmarks/processes.py      # two minutes
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from timing import COLUMNS, compare, machine, markdown

from hmsutils import simulate


def main() -> None:
    lines = {
        "Python alone": "pass",
        "`import hmsutils`": "import hmsutils",
        "`from hmsutils import spectrograms`": "from hmsutils import spectrograms",
        "`from hmsutils import inference`": "from hmsutils import inference",
        "`from hmsutils import training` (TensorFlow)": "from hmsutils import training",
    }
    commands = {name: [sys.executable, "-c", line] for name, line in lines.items()}
    with tempfile.TemporaryDirectory() as folder:
        competition = simulate.simulate_competition(Path(folder) / "data", 1, seed=3)
        eeg = next((competition.root / "test_eegs").glob("*.parquet"))
        predict = [sys.executable, "-m", "hmsutils", "predict", eeg, "--out", f"{folder}/p.csv"]
        commands["`hmsutils predict` of 50 s, the default model"] = predict
        table = compare(
            {k: lambda v=v: subprocess.run(v, capture_output=True, check=True)
             for k, v in commands.items()},
            rounds=5,
        )  # fmt: skip
    print(f"`python benchmarks/processes.py` on {machine()}\n\n{COLUMNS}\n")
    print(f"### Start\n\n{markdown(table.drop(columns='times faster'), 0)}\n")


if __name__ == "__main__":
    main()
