"""Released models on real, expert-labelled EEG, beside uniform guessing and SPaRCNet's published
predictions: KL, accuracy, 95 % intervals over patients, then every recording with its votes.

    python benchmarks/real_eeg.py [RUN ...]        # default: every run in models/released
"""

import sys
from pathlib import Path

import pandas as pd

from hmsutils import evaluation, files, inference, records


def main(runs: list[Path]) -> None:
    real = files.find_real_samples()
    if real is None:
        sys.exit("No real recordings: put them into data/iiic_real, or name them in HMS_REAL_DIR")
    windows = records.load_windows(real)
    uniform = windows.assign(**dict.fromkeys(files.PREDICTION_COLUMNS, 1 / 6))
    oofs = {"uniform": uniform}
    for run in runs:
        prediction = inference.predict_windows(inference.load_models([run]), real, windows)
        oofs[run.name] = evaluation.with_prediction(windows, prediction)
    sparcnet = pd.read_csv(real.root / "sparcnet_predictions.csv").set_index("eeg_id")
    columns = [f"{name.lower()}_sparcnet" for name in files.CLASSES]
    published = sparcnet.loc[windows.eeg_id, columns].to_numpy()
    oofs["SPaRCNet"] = evaluation.with_prediction(windows, published)
    print(evaluation.compare(oofs).round(3).to_string())
    for name in list(oofs)[1:]:
        oof = oofs[name]
        prediction = oof[list(files.PREDICTION_COLUMNS)].to_numpy()
        rows = windows[["eeg_id", "expert_consensus", *files.VOTE_COLUMNS]].copy()
        rows["predicted"] = [files.CLASSES[i] for i in prediction.argmax(axis=1)]
        rows["KL"] = evaluation.kl_per_row(records.targets(windows), prediction).round(2)
        print(f"\n{name}\n{rows.to_string(index=False)}")


if __name__ == "__main__":
    released = (files.project_dir() / "models" / "released").glob("*/run.json")
    main([Path(run) for run in sys.argv[1:]] or sorted(path.parent for path in released))
