"""Train the released models on simulated windows; see README.md.

    python models/pretrain.py mobilenet_v3_large wavenet     # from nothing
    python models/pretrain.py mobilenet_v3_large+wavenet     # goes on from these two
    python models/pretrain.py --stream 30000 wavenet         # new windows every epoch, no pool
    python models/pretrain.py --card                         # the table of what is released

Models learn from the domain WIDE and are chosen by SHIFTED, whose waves, backgrounds and machines
WIDE does not have. Pool and runs are kept (data/processed/pool, models/runs): a killed run goes on.
"""

import argparse
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from hmsutils import inference, store, training
from hmsutils.batches import Batches
from hmsutils.brain import SHIFTED, STANDARD, WIDE
from hmsutils.evaluation import kl_divergence, score, temperature, with_prediction
from hmsutils.files import PREDICTION_COLUMNS, project_dir
from hmsutils.records import targets
from hmsutils.simulate import Part, simulate_pool

BASE = training.PROFILES["demo"]
INPUTS = {"image": BASE.image, "eeg": BASE.eeg}
# Simulated competitions use small seeds: no patient of the pool is one of theirs. Both populations
# of raters vote, as in train.csv and, by what uniform guessing reaches there (1.41), in the public
# sample of real recordings.
SHIFTED_PART = Part(1500, SHIFTED, (2**31, 0), fold=0)
STANDARD_PART = Part(1000, STANDARD, (2**31, 1), fold=0, balanced=False)
WIDE_PART = Part(30_000, WIDE, (2**31, 2), fold=1, opinions=True)


@dataclass(frozen=True)
class Recipe:
    """How one released model is made; see benchmarks/ablation_recipe.md."""

    epochs: int
    learning_rate: float
    start: tuple[str, ...] = ()  # released models that it goes on from


RECIPES = {
    "mobilenet_v3_large": Recipe(5, 1e-3),
    "wavenet": Recipe(4, 5e-3),
    "mobilenet_v3_large+wavenet": Recipe(1, 5e-4, ("mobilenet_v3_large", "wavenet")),
}


def pool(*parts: Part, n_jobs: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    return simulate_pool(parts, INPUTS, store.default_dir(), n_jobs=n_jobs)


def judge(run: Path, windows: pd.DataFrame, arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    """A released run's out-of-fold frame of the windows that are held out."""
    model, config = training.load_model(run, 0)
    rows = np.flatnonzero(windows["fold"] == 0)
    batches = Batches({k: arrays[k] for k in config.inputs}, targets(windows), rows, batch_size=64)
    return with_prediction(windows.iloc[rows], model.predict(batches, verbose=0))


def export(run: Path, target: Path, held_out: dict[str, tuple]) -> None:
    """Copy a run without its logs; kernels rounded to 0.001, and judged again as they now are."""
    shutil.rmtree(target, ignore_errors=True)
    (target / "fold0").mkdir(parents=True)
    for name in ("run.json", "history.csv"):
        shutil.copy(run / name, target / name)
    weights = target / "fold0" / "best.weights.h5"
    with h5py.File(run / "fold0" / weights.name) as source, h5py.File(weights, "w") as file:
        file.attrs.update(source.attrs)
        source.visititems(lambda name, item: _copy(name, item, file))
    rejudge(target, held_out)


def rejudge(run: Path, held_out: dict[str, tuple]) -> None:
    """Write what a released run reaches on held-out parts; the first one gives its temperature."""
    oofs = {part: judge(run, *pair) for part, pair in held_out.items()}
    first = next(iter(oofs.values()))
    first.to_parquet(run / "oof.parquet", index=False)
    description = json.loads((run / "run.json").read_text())
    description["temperature"] = temperature(targets(first), _prediction(first))
    description["metrics"] = json.loads(score(first).to_json(orient="index"))
    description["parts"] = {
        part: score(oof).loc["all"].round(4).to_dict() for part, oof in oofs.items()
    }
    (run / "run.json").write_text(json.dumps(description, indent=1))
    size = (run / "fold0" / "best.weights.h5").stat().st_size / 1e6
    print(f"{run.name}: {size:.1f} MB, {description['parts']}")


def _prediction(oof: pd.DataFrame) -> np.ndarray:
    return oof[list(PREDICTION_COLUMNS)].to_numpy(np.float64)


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
    for folder in inference.released_runs():
        run = json.loads((folder / "run.json").read_text())
        size = (folder / "fold0" / "best.weights.h5").stat().st_size / 1e6
        history = pd.read_csv(folder / "history.csv")
        row = {"model": run["name"], "MB": round(size, 1), "epochs": len(history)}
        row["minutes"] = round(history["seconds"].sum() / 60)
        for part, values in run["parts"].items():
            interval = f"[{values['KL low']:.3f}, {values['KL high']:.3f}]"
            row[part] = f"{values['KL']:.3f} {interval} {values['accuracy']:.3f}"
        rows.append(row)
    return pd.DataFrame(rows).to_string(index=False)


def learn(name: str, recipe: Recipe, windows: pd.DataFrame, arrays: dict, stream: int) -> Path:
    """The run folder of a recipe, trained on the pool or on `stream` new windows an epoch."""
    runs_dir = project_dir() / "models" / "runs"
    start = (os.path.relpath(training.released_run(name), runs_dir) for name in recipe.start)
    base = replace(BASE, weights=None, patience=99)
    config = replace(
        base, towers=tuple(name.split("+")), start_from=tuple(start), epochs=recipe.epochs,
        learning_rate=recipe.learning_rate, batch_size=32, ema=0.995, stream=stream,
    )  # fmt: skip
    return training.train([config], windows, arrays, runs_dir=runs_dir)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(RECIPES))
    parser.add_argument("--stream", type=int, default=0, help="new windows per epoch, no pool")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--card", action="store_true", help="print the table of what is released")
    parser.add_argument("--judge", action="store_true", help="judge what is released once more")
    args = parser.parse_args()
    if unknown := set(args.names) - set(RECIPES):
        parser.error(f"no recipe for {', '.join(unknown)}; choose from {', '.join(RECIPES)}")
    if args.card:
        return print(card())
    held_out = {
        "shifted": pool(SHIFTED_PART, n_jobs=args.jobs),
        "standard": pool(STANDARD_PART, n_jobs=args.jobs),
    }
    if args.judge:
        for folder in inference.released_runs():
            rejudge(folder, held_out)
        for part, (windows, _) in held_out.items():
            mean_vote = np.tile(targets(windows).mean(axis=0), (len(windows), 1))
            print(f"mean vote of {part}: KL {kl_divergence(targets(windows), mean_vote):.3f}")
    for name in args.names:
        learned = replace(WIDE_PART, n_windows=64) if args.stream else WIDE_PART
        windows, arrays = pool(SHIFTED_PART, learned, n_jobs=args.jobs)
        run = learn(name, RECIPES[name], windows, arrays, args.stream)
        export(run, training.released_run(name), held_out)


if __name__ == "__main__":
    main()
