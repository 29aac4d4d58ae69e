"""Released models on real, expert-labelled EEG, beside uniform guessing and SPaRCNet's published
predictions: KL, accuracy, 95 % intervals over patients, then every recording with its votes.

    python benchmarks/real_eeg.py [RUN ...]        # default: all released ones
"""

import sys
from pathlib import Path

import numpy as np

from hmsutils import download, evaluation, inference, records, runs
from hmsutils.competition import CLASSES, VOTE_COLUMNS


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
    for name in list(predictions)[1:]:
        rows = windows[["eeg_id", "expert_consensus", *VOTE_COLUMNS]].copy()
        rows["predicted"] = [CLASSES[i] for i in predictions[name].argmax(axis=1)]
        rows["KL"] = evaluation.kl_per_row(records.targets(windows), predictions[name]).round(2)
        print(f"\n{name}\n{rows.to_string(index=False)}")


if __name__ == "__main__":
    main([Path(run) for run in sys.argv[1:]])
