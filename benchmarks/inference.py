"""From EEG files to probabilities with the released concatenation, on two cores.

    python benchmarks/inference.py      # three minutes

The reference goes file by file: pandas, SciPy, the librosa loop, `model.predict`, twice for the
flipped montage. Beside it `inference.predict_windows`, and the exported model (`export`) in
onnxruntime, which gets the raw EEG. The largest difference of each from `inference.predict` is
printed; the reference's own representations are not exactly ours.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from representations import naive_inputs
from timing import compare, machine, markdown

from hmsutils import export, inference, records, runs, simulate
from hmsutils.inference import TrainedModel

N_EEGS = 64


def naive(trained: TrainedModel, paths: list[Path]) -> np.ndarray:
    """(N, 6), one file after the other."""
    inputs, rows = trained.inputs, []
    for path in paths:
        image, eeg = naive_inputs(path, inputs["image"], inputs["eeg"])
        batch = {"image": image[None], "eeg": eeg[None]}
        both = [batch, {name: inputs[name].flip_hemispheres(x) for name, x in batch.items()}]
        rows.append(np.mean([trained.model.predict(b, verbose=0)[0] for b in both], axis=0))
    return np.stack(rows)


def main() -> None:
    models = inference.load_models([runs.released_run("mobilenet_v3_large+wavenet")])
    with tempfile.TemporaryDirectory() as folder:
        competition = simulate.simulate_competition(Path(folder) / "data", 20, seed=2)
        windows = records.load_windows(competition).drop_duplicates("eeg_id").head(N_EEGS)
        windows = windows.assign(eeg_offset_s=0.0).reset_index(drop=True)
        paths = [competition.eeg(eeg_id) for eeg_id in windows["eeg_id"]]
        file = Path(folder) / "one.onnx"
        export.save(export.one_model(models), file)
        session = onnxruntime.InferenceSession(file)

        def onnx() -> np.ndarray:
            parts = []
            for i in range(0, len(paths), 8):
                eeg_uv = [records.read_eeg(competition, e) for e in windows["eeg_id"][i : i + 8]]
                parts.append(session.run(None, {"eeg_uv": np.stack(eeg_uv)})[0])
            return np.concatenate(parts)

        ours = inference.predict_windows(models, competition, windows)
        variants = {
            "file by file": lambda: naive(models[0], paths),
            "`predict_windows`": lambda: inference.predict_windows(models, competition, windows),
            "one `.onnx` file, onnxruntime": onnx,
        }
        table = compare(variants, rounds=5)
        error = np.nanmax(np.abs(onnx() - ours))
    table.insert(0, "EEGs/s", 1e3 * len(paths) / table["ms"])
    table["minutes for 10,000"] = 10_000 / table["EEGs/s"] / 60
    print(f"`python benchmarks/inference.py` on {machine()}\n")
    print(f"### {len(paths)} EEG files → probabilities, both montages\n\n{markdown(table)}\n")
    print(f"Largest difference of a probability between the last two: {error:.1g}.\n")


if __name__ == "__main__":
    main()
