"""Released models on real, expert-labelled EEG, beside uniform guessing and SPaRCNet's published
predictions: KL, accuracy, 95 % intervals over patients, then every recording with its votes.
With `--healthy`, on EDF files of healthy people: the share of each class in steps of 10 s.

    python benchmarks/real_eeg.py [RUN ...]        # default: all released ones
    python benchmarks/real_eeg.py [RUN ...] --healthy FOLDER
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from hmsutils import download, evaluation, inference, recordings, records, runs
from hmsutils.competition import CLASSES, VOTE_COLUMNS


def healthy(folders: list[Path], folder: Path) -> None:
    files = sorted(folder.glob("*.edf")) or sys.exit(f"No EDF files in {folder}")
    recorded, shares = {path.stem: recordings.read_recording(path) for path in files}, {}
    for label, run in evaluation.label_runs(folders or runs.released_runs()).items():
        models = inference.load_models([run])
        for name, recording in recorded.items():
            table = inference.predict_recording(models, recording)[list(CLASSES)].dropna()
            called = table.idxmax(axis=1).value_counts(normalize=True)
            shares[label, name] = {"windows": len(table), **called.reindex(CLASSES, fill_value=0)}
    table = pd.DataFrame(shares).T
    for label, rows in table.groupby(level=0, sort=False):
        mean = np.average(rows[list(CLASSES)], axis=0, weights=rows["windows"])
        table.loc[(label, "all"), :] = [rows["windows"].sum(), *mean]
    print(table.sort_index(level=0, sort_remaining=False).round(3).to_string())


def main(folders: list[Path]) -> None:
    real = download.find_real_samples()
    if real is None:
        sys.exit("No real recordings: python -m hmsutils download samples, or set HMS_REAL_DIR")
    windows = records.load_windows(real)
    predictions = {"uniform": np.full((len(windows), len(CLASSES)), 1 / len(CLASSES))}
    for label, run in evaluation.label_runs(folders or runs.released_runs()).items():
        models = inference.load_models([run])
        predictions[label] = inference.predict_windows(models, real, windows)
    predictions["SPaRCNet"] = download.published_predictions(real, windows)
    oofs = {name: evaluation.with_prediction(windows, p) for name, p in predictions.items()}
    print(evaluation.compare(oofs).round(3).to_string())
    first, *others = list(oofs)[1:]
    for name in others:
        change = evaluation.paired_difference(oofs[name], oofs[first]).loc["KL"].round(3)
        print(f"KL of {name} - {first}: {change.difference} [{change.low}, {change.high}]")
    for name in list(predictions)[1:]:
        rows = windows[["eeg_id", "expert_consensus", *VOTE_COLUMNS]].copy()
        rows["predicted"] = [CLASSES[i] for i in predictions[name].argmax(axis=1)]
        rows["KL"] = evaluation.kl_per_row(records.targets(windows), predictions[name]).round(2)
        print(f"\n{name}\n{rows.to_string(index=False)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--healthy", type=Path, metavar="FOLDER", help="of EDF files")
    args = parser.parse_args()
    healthy(args.runs, args.healthy) if args.healthy else main(args.runs)
