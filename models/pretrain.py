"""Train the released models on simulated windows; see README.md.

    python models/pretrain.py mobilenet_v3_large wavenet     # from random weights
    python models/pretrain.py mobilenet_v3_large+wavenet     # starts from these two
    python models/pretrain.py --card                         # the table of what is released
    python models/pretrain.py --evaluate                     # measures that table again

Models learn from the domain WIDE and are chosen by SHIFTED, whose waves, backgrounds and machines
WIDE does not have. Simulated windows and runs are kept (data/processed, models/runs): a run that
was killed goes on.
"""

import argparse
import json
import os
import shutil
from dataclasses import dataclass, replace

import h5py
import numpy as np
import pandas as pd

from hmsutils import runs, store, training
from hmsutils.batches import Batches
from hmsutils.competition import PREDICTION_COLUMNS, home_dir
from hmsutils.config import PROFILES
from hmsutils.evaluation import fit_temperature, kl_divergence, score, with_prediction
from hmsutils.records import targets
from hmsutils.runs import FoldFolder, Run
from hmsutils.simulate import SHIFTED, STANDARD, WIDE, Split, simulate_pool

BASE = replace(
    PROFILES["demo"], init_from=(), freeze_batch_norm=False, patience=99, batch_size=32,
    ema_momentum=0.995,
)  # fmt: skip
# Simulated competitions use small seeds: no patient here is one of theirs. Both populations of
# raters vote, as in train.csv and, by what uniform guessing reaches there (KL 1.41), in the public
# sample of real recordings.
HELD_OUT = {
    "shifted": Split(1500, SHIFTED, (2**31, 0), fold=0),
    "standard": Split(1000, STANDARD, (2**31, 1), fold=0, balanced=False),
}
LEARNED = Split(30_000, WIDE, (2**31, 2), fold=1, soft_labels=True)


@dataclass(frozen=True)
class Recipe:
    """How one released model is made; see benchmarks/ablation_recipe.md."""

    epochs: int
    learning_rate: float
    init_from: tuple[str, ...] = ()  # released models that it starts from


RECIPES = {
    "mobilenet_v3_large": Recipe(5, 1e-3),
    "wavenet": Recipe(4, 5e-3),
    "mobilenet_v3_large+wavenet": Recipe(1, 5e-4, ("mobilenet_v3_large", "wavenet")),
}


def pool(*splits: Split, n_jobs: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    return simulate_pool(splits, BASE.inputs, store.default_dir(), n_jobs=n_jobs)


def evaluate(run: Run, windows: pd.DataFrame, arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    """A released run's out-of-fold frame of the windows that are held out."""
    model, config = training.load_model(run, 0)
    rows = np.flatnonzero(windows["fold"] == 0)
    arrays = {name: arrays[name] for name in config.input_names}
    batches = Batches(arrays, targets(windows), rows, config.inputs, batch_size=64)
    return with_prediction(windows.iloc[rows], model.predict(batches, verbose=0))


def release(run: Run, held_out: dict[str, tuple]) -> None:
    """Copy a run without its logs, weights rounded to 0.001, and evaluate it as it then is."""
    places = {old.name: old.folder for old in runs.released_runs()}
    target = places.get(run.name, home_dir() / "models" / "released" / run.name)
    shutil.rmtree(target, ignore_errors=True)
    weights = FoldFolder(target, 0).weights
    weights.parent.mkdir(parents=True)
    with h5py.File(run.weights(0)) as source, h5py.File(weights, "w") as file:
        file.attrs.update(source.attrs)
        source.visititems(lambda name, item: _copy(name, item, file))
    write_metrics(runs.write_run(target, run.description, run.oof(), run.history()), held_out)


def write_metrics(run: Run, held_out: dict[str, tuple]) -> None:
    """Write a released run's metrics on held-out splits; the first one gives its temperature."""
    oofs = {split: evaluate(run, *pair) for split, pair in held_out.items()}
    first = next(iter(oofs.values()))
    prediction = first[list(PREDICTION_COLUMNS)].to_numpy()
    description = run.description | {
        "temperature": fit_temperature(targets(first), prediction),
        "metrics": json.loads(score(first).to_json(orient="index")),
        "splits": {k: score(oof).loc["all"].round(4).to_dict() for k, oof in oofs.items()},
    }
    runs.write_run(run.folder, description, first, run.history())
    print(f"{run.name}: {megabytes(run):.1f} MB, {description['splits']}")


def megabytes(run: Run) -> float:
    return run.weights(0).stat().st_size / 1e6


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
    for run in runs.released_runs():
        history = run.history()
        row = {"model": run.name, "MB": round(megabytes(run), 1), "epochs": len(history)}
        row["minutes"] = round(history["seconds"].sum() / 60)
        for split, values in run.description["splits"].items():
            interval = f"[{values['KL low']:.3f}, {values['KL high']:.3f}]"
            row[split] = f"{values['KL']:.3f} {interval} {values['accuracy']:.3f}"
        rows.append(row)
    return pd.DataFrame(rows).to_string(index=False)


def learn(name: str, recipe: Recipe, windows: pd.DataFrame, arrays: dict) -> Run:
    """The run of a recipe."""
    init_from = [
        os.path.relpath(runs.released_run(k), runs.default_dir()) for k in recipe.init_from
    ]
    config = replace(
        BASE, towers=tuple(name.split("+")), init_from=tuple(init_from), epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
    )  # fmt: skip
    return training.train([config], windows, arrays)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(RECIPES))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--card", action="store_true", help="print the table of what is released")
    parser.add_argument("--evaluate", action="store_true", help="evaluate what is released again")
    args = parser.parse_args()
    if unknown := set(args.names) - set(RECIPES):
        parser.error(f"no recipe for {', '.join(unknown)}; choose from {', '.join(RECIPES)}")
    if args.card:
        return print(card())
    held_out = {name: pool(split, n_jobs=args.jobs) for name, split in HELD_OUT.items()}
    if args.evaluate:
        for run in runs.released_runs():
            write_metrics(run, held_out)
        for name, (windows, _) in held_out.items():
            mean_vote = np.tile(targets(windows).mean(axis=0), (len(windows), 1))
            print(f"mean vote of {name}: KL {kl_divergence(targets(windows), mean_vote):.3f}")
    for name in args.names:
        windows, arrays = pool(HELD_OUT["shifted"], LEARNED, n_jobs=args.jobs)
        release(learn(name, RECIPES[name], windows, arrays), held_out)


if __name__ == "__main__":
    main()
