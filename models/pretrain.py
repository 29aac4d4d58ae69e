"""Train the released models from nothing, on a pool of simulated windows; see README.md.

    python models/pretrain.py --windows 14000 --jobs 2        # makes the pool, trains, exports
    python models/pretrain.py --windows 14000 --only densenet201

The pool and the runs are kept in data/processed/pool and models/runs, so that a killed run goes on.
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hmsutils import training
from hmsutils.augment import NO_AUGMENTATION
from hmsutils.batches import Batches
from hmsutils.evaluation import score, with_prediction
from hmsutils.files import TARGET_COLUMNS
from hmsutils.records import targets
from hmsutils.signals import wavenet_input
from hmsutils.simulate import simulate_window
from hmsutils.spectrograms import image

HERE = Path(__file__).resolve().parent
POOL_SEED = 2**31  # simulated competitions use small seeds: no patient of the pool is one of theirs
BASE = training.PROFILES["demo"]
AUGMENTATION = replace(NO_AUGMENTATION, swap=0.5)  # every window is already new
SMALL = ("mobilenet_v3_large", "wavenet")  # concatenated, it is what `predict` uses by default
EPOCHS = {
    "resnet50_v2": 2,
    "mobilenet_v3_large": 5,
    "wavenet": 8,
    "efficientnetv2_b2": 2,
    "densenet201": 1,
}


def chunk(folder: Path, start: int, stop: int) -> int:
    """Simulate windows start … stop of the pool; returns how many."""
    part = folder / f"{start:07d}.npz"
    if not part.exists():
        with threadpool_limits(1):
            pairs = [
                simulate_window(np.random.default_rng([POOL_SEED, i])) for i in range(start, stop)
            ]
            eeg_uv = np.stack([eeg for eeg, _ in pairs])
            arrays = {"image": image(eeg_uv, BASE.image), "eeg": wavenet_input(eeg_uv, BASE.eeg)}
        half = {key: array.astype(np.float16) for key, array in arrays.items()}
        np.savez(part.with_suffix(".part.npz"), votes=[votes for _, votes in pairs], **half)
        part.with_suffix(".part.npz").rename(part)
    return stop - start


def pool(n_windows: int, n_jobs: int, size: int = 64) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Windows with targets and folds (0 is held out: a tenth, at most 1,000), and their arrays."""
    folder = training.project_dir() / "data" / "processed" / "pool"
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, n_windows, size)
    tasks = (delayed(chunk)(folder, i, min(i + size, n_windows)) for i in starts)
    with tqdm(desc="Simulating windows", total=n_windows, mininterval=5) as bar:
        for done in Parallel(n_jobs, return_as="generator_unordered")(tasks):
            bar.update(done)
    parts = [np.load(folder / f"{i:07d}.npz") for i in starts]
    votes = np.concatenate([part["votes"] for part in parts])
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in ("image", "eeg")}
    ids = np.arange(n_windows)
    windows = pd.DataFrame({"eeg_id": ids, "eeg_offset_s": 0, "label_id": ids, "patient_id": ids})
    windows["n_votes"] = votes.sum(axis=1)
    windows["fold"] = (ids >= min(1000, n_windows // 10)).astype(int)
    windows[list(TARGET_COLUMNS)] = votes / votes.sum(axis=1, keepdims=True)
    return windows, arrays


def export(run: Path, target: Path, windows: pd.DataFrame, arrays: dict[str, np.ndarray]) -> None:
    """Copy a run without its logs; kernels rounded to 0.001, and judged again as they now are."""
    shutil.rmtree(target, ignore_errors=True)
    (target / "fold0").mkdir(parents=True)
    for name in ("run.json", "history.csv"):
        shutil.copy(run / name, target / name)
    weights = target / "fold0" / "best.weights.h5"
    with h5py.File(run / "fold0" / weights.name) as source, h5py.File(weights, "w") as file:
        file.attrs.update(source.attrs)
        source.visititems(lambda name, item: _copy(name, item, file))
    model, config = training.load_model(target, 0)
    held_out = np.flatnonzero(windows["fold"] == 0)
    batches = Batches(
        {k: arrays[k] for k in config.inputs}, targets(windows), held_out, batch_size=64
    )
    oof = with_prediction(windows.iloc[held_out], model.predict(batches, verbose=0))
    oof.to_parquet(target / "oof.parquet", index=False)
    description = json.loads((target / "run.json").read_text())
    description["metrics"] = json.loads(score(oof).to_json(orient="index"))
    (target / "run.json").write_text(json.dumps(description, indent=1))
    before = pd.read_csv(run / "history.csv")["val_kl"].min()
    after = description["metrics"]["all"]
    print(
        f"{target.name}: {weights.stat().st_size / 1e6:.1f} MB, held-out KL {after['KL']:.4f} "
        f"({before:.4f} before rounding), accuracy {after['accuracy']:.3f}"
    )


def _copy(name: str, item, file: h5py.File) -> None:
    if isinstance(item, h5py.Group):
        target = file.require_group(name)
    elif item.dtype == np.float32 and item.ndim > 1:  # HDF5's own lossy filter, read transparently
        target = file.create_dataset(
            name, data=item[()], scaleoffset=3, shuffle=True, compression=4
        )
    else:
        target = file.create_dataset(name, data=item[()])
    target.attrs.update(item.attrs)


def card() -> str:
    """The model card's table, from the released folders."""
    rows = []
    for path in sorted((HERE / "released").glob("*/run.json")):
        run = json.loads(path.read_text())
        size = (path.parent / "fold0" / "best.weights.h5").stat().st_size / 1e6
        metrics = {k: run["metrics"]["all"][k] for k in ("KL", "KL low", "KL high", "accuracy")}
        history = pd.read_csv(path.parent / "history.csv")
        epochs = {"epochs": len(history), "minutes": round(history["seconds"].sum() / 60)}
        rows.append({"model": run["name"], "MB": round(size, 1)} | epochs | metrics)
    return pd.DataFrame(rows).round(3).to_string(index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=14_000)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--only", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument("--card", action="store_true", help="print the table of what is released")
    args = parser.parse_args()
    if args.card:
        return print(card())
    windows, arrays = pool(args.windows, args.jobs)
    base = replace(BASE, weights=None, augmentation=AUGMENTATION, dropout=0.1, patience=99)
    base = replace(base, batch_size=32, learning_rate=1e-3)
    configs = [replace(base, towers=(name,), epochs=EPOCHS[name]) for name in args.only]
    configs = [replace(c, learning_rate=2e-3) if c.name == "wavenet" else c for c in configs]
    runs = training.train(configs, windows, arrays, n_jobs=args.jobs)
    if set(SMALL) <= set(args.only):
        parts = tuple(runs[args.only.index(name)].name for name in SMALL)
        concat = replace(base, towers=SMALL, start_from=parts, epochs=2, learning_rate=3e-4)
        runs += training.train([concat], windows, arrays)
    for run in runs:
        name = "+".join(json.loads((run / "run.json").read_text())["config"]["towers"])
        export(run, HERE / "released" / name, windows, arrays)


if __name__ == "__main__":
    main()
