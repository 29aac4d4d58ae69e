"""Train the released models on simulated windows; see README.md.

    python models/pretrain.py                                # simulate all windows, on all cores
    python models/pretrain.py mobilenet_v3_large wavenet     # goes on from what is released
    python models/pretrain.py mobilenet_v3_large+wavenet     # that, or its two released towers
    python models/pretrain.py wavenet --pack FOLDER          # then make it small and evaluate it
    python models/pretrain.py --release FOLDER/*             # put packed runs among the released
    python models/pretrain.py --card                         # the table of what is released
    python models/pretrain.py --evaluate                     # measures that table again
    python models/pretrain.py --blend                        # the blend of all that is released

Models learn from the domain WIDE. Choices are made by SHIFTED, QUIET, NOISY, HEALTHY and
VOLUNTEERS, whose waves, backgrounds and machines WIDE does not have. Simulated windows and runs are
kept (data/processed, models/runs/pretrain): a run that was killed, or whose `--hours` are over,
goes on.
With KERAS_BACKEND=jax it needs no TensorFlow. A large GPU trains several models at once, each by a
command of its own.
"""

import argparse
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from hmsutils import export, runs, store, training
from hmsutils.batches import Batches
from hmsutils.config import PROFILES, TrainConfig
from hmsutils.evaluation import (
    kl_divergence,
    nested_blend,
    paired_difference,
    score,
    temperatures,
    with_prediction,
)
from hmsutils.models import BACKBONES, WAVENET
from hmsutils.records import targets
from hmsutils.runs import FoldFolder, Run
from hmsutils.simulate import (
    HEALTHY,
    MANY,
    NOISY,
    QUIET,
    SHIFTED,
    STANDARD,
    VOLUNTEERS,
    WIDE,
    Split,
    simulate_pool,
)

BASE = replace(PROFILES["demo"], freeze_batch_norm=False)
# Simulated competitions use small seeds: no patient here is one of theirs. Both populations of
# raters vote, as in train.csv and, by what uniform guessing reaches there (KL 1.41), in the public
# sample of real recordings.
HELD_OUT = {
    "shifted": Split(1500, SHIFTED, (2**31, 0), fold=0),
    "quiet": Split(1000, QUIET, (2**31, 3), fold=0),
    "noisy": Split(1000, NOISY, (2**31, 4), fold=0),
    "healthy": Split(1000, HEALTHY, (2**31, 5), fold=0, populations=(MANY,)),
    "volunteers": Split(1000, VOLUNTEERS, (2**31, 6), fold=0, populations=(MANY,)),
    "standard": Split(1000, STANDARD, (2**31, 1), fold=0, balanced=False),
}
DEVELOPMENT = ("shifted", "quiet", "noisy")  # of them a released run's metrics and temperatures are
LEARNED = Split(24_000, WIDE, (2**31, 2), fold=1, soft_labels=True)


@dataclass(frozen=True)
class Recipe:
    """How one released model goes on from the release before; see benchmarks/ablation_recipe.md."""

    epochs: int
    learning_rate: float
    batch_size: int = 64
    precision: str = "auto"
    # Share of the weights of the release before in the average that is released: it keeps what a
    # run forgets of other domains than the one it learned from last (arXiv:2109.01903).
    kept: float = 0.5


# On a CPU bfloat16 is quicker for the WaveNet and DenseNet201, not for the others.
RECIPES = {
    "mobilenet_v3_large": Recipe(1, 5e-4),
    "efficientnetv2_b2": Recipe(3, 1e-3),
    "resnet50_v2": Recipe(2, 1e-3, kept=0.65),
    "densenet201": Recipe(3, 1e-3, precision="mixed_bfloat16", kept=0),
    WAVENET: Recipe(1, 1e-3, precision="mixed_bfloat16"),
    **{f"{name}+{WAVENET}": Recipe(1, 3e-4) for name in BACKBONES},
}


def runs_dir() -> Path:
    return runs.default_dir() / "pretrain"


def pool(*splits: Split, n_jobs: int | None = None) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    return simulate_pool(splits, BASE.inputs, store.default_dir(), n_jobs=n_jobs)


def recipe_config(name: str) -> TrainConfig:
    settings = {k: v for k, v in asdict(RECIPES[name]).items() if k != "kept"}
    return replace(BASE, towers=tuple(name.split("+")), **settings)


def pack(run: Run, folder: Path, held_out: dict[str, tuple]) -> None:
    """Copy a run without its logs, its weights averaged with those of the release before and
    rounded to 0.001, and evaluate it as it then is."""
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    weights, kept = FoldFolder(part, 0).weights, RECIPES[run.name].kept
    before = runs.released_run(run.name).weights(0) if kept else run.weights(0)
    weights.parent.mkdir(parents=True)
    with h5py.File(run.weights(0)) as new, h5py.File(before) as old, h5py.File(weights, "w") as out:
        out.attrs.update(new.attrs)
        new.visititems(lambda name, item: _copy(name, item, old[name], kept, out))
    description = run.description | {"kept_of_release_before": kept}
    write_metrics(runs.write_run(part, description, run.oof(), run.history()), held_out)
    part.rename(folder)


def _copy(name: str, item, old, kept: float, out: h5py.File) -> None:
    if isinstance(item, h5py.Group):
        target = out.require_group(name)
    elif item.dtype == np.float32:
        x = (1 - kept) * item[()].astype(np.float64) + kept * old[()]
        # HDF5's own lossy filter, read transparently; alone it would err by up to 0.001.
        small = {"scaleoffset": 3, "shuffle": True, "compression": 9} if item.ndim > 1 else {}
        x = np.round(x, 3) if small else x
        target = out.create_dataset(name, data=x.astype(np.float32), **small)
    else:
        target = out.create_dataset(name, data=item[()])
    target.attrs.update(item.attrs)


def evaluate(run: Run, windows: pd.DataFrame, arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    """A run's out-of-fold frame of the windows that are held out."""
    model, config = training.load_model(run, 0)
    rows = np.flatnonzero(windows["fold"] == 0)
    arrays = {name: arrays[name] for name in config.input_names}
    batches = Batches(arrays, targets(windows), rows, config.inputs, batch_size=50)
    return with_prediction(windows.iloc[rows], model.predict(batches, verbose=0))


def write_metrics(run: Run, held_out: dict[str, tuple]) -> None:
    """Write a packed run's metrics on held-out splits; those for development give its temperatures,
    and are its held-out rows."""
    oofs = {split: evaluate(run, *pair) for split, pair in held_out.items()}
    oof = pd.concat([oofs[split].assign(split=split) for split in DEVELOPMENT], ignore_index=True)
    for column in ("eeg_id", "label_id", "patient_id"):  # every window is of another patient
        oof[column] = oof.index
    description = run.description | {
        **temperatures(oof),
        "metrics": json.loads(score(oof).to_json(orient="index")),
        "splits": {k: score(oof).loc["all"].round(4).to_dict() for k, oof in oofs.items()},
    }
    runs.write_run(run.folder, description, oof, run.history())
    print(f"{run.name}: {megabytes(run):.1f} MB, {description['splits']}", flush=True)


def write_blend() -> None:
    """Fit the weights of all released runs on the held-out rows that they share, keep them beside
    these, and print what the blend gains against the default, on patients that it is not fitted
    on."""
    blended, weights = nested_blend(runs.released_runs())
    by_name = {run.folder.name: weight for run, weight in weights.items()}
    kl = float(score(blended).loc["all", "KL"])
    runs.write_blend(runs.released_dir(), by_name, kl)
    default = runs.released_runs(runs.DEFAULT)[0].oof()
    for split, rows in blended.groupby("split", sort=False):
        change = paired_difference(rows, default.loc[rows.index]).round(3)
        print(f"{split}: KL {score(rows).loc['all', 'KL']:.3f}, against the default\n{change}")
    print({name: round(weight, 3) for name, weight in by_name.items()})


def megabytes(run: Run) -> float:
    return run.weights(0).stat().st_size / 1e6


def card() -> str:
    """The model card's table, from the released folders. Of healthy people nobody should be called
    anything but Other: there it is the share that is, the false alarms."""
    rows = []
    for run in runs.released_runs():
        history = run.history()
        row = {"model": run.name, "MB": round(megabytes(run), 1), "epochs": len(history)}
        row["minutes"] = round(history["seconds"].sum() / 60)
        for split, values in run.description["splits"].items():
            interval = f"[{values['KL low']:.3f}, {values['KL high']:.3f}]"
            row[split] = f"{values['KL']:.3f} {interval} {values['accuracy']:.3f}"
            if split in ("healthy", "volunteers"):
                row[split] = f"{1 - values['accuracy']:.3f}"
        rows.append(row)
    return pd.DataFrame(rows).to_string(index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=", ".join(RECIPES))
    parser.add_argument("--hours", type=float, help="stop before so many are over")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="for the runs of these names")
    parser.add_argument("--release", nargs="+", default=(), metavar="FOLDER", help="packed runs")
    parser.add_argument("--card", action="store_true", help="print the table of what is released")
    parser.add_argument("--evaluate", action="store_true", help="evaluate what is released again")
    parser.add_argument("--blend", action="store_true", help="blend what is released")
    args = parser.parse_args()
    if unknown := set(args.names) - set(RECIPES):
        parser.error(f"no recipe for {', '.join(unknown)}; choose from {', '.join(RECIPES)}")
    if args.card:
        return print(card())
    for run in [Run(folder) for folder in args.release]:  # all can be read
        places = {old.name: old.folder for old in runs.released_runs()}
        target = places.get(run.name, runs.released_dir() / run.name)
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(run.folder, part, ignore=shutil.ignore_patterns(".*"))
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        if target.parent != runs.released_dir():  # the default, which the package holds
            export.convert(Run(target))
        (runs.released_dir() / "blend.json").unlink(missing_ok=True)  # of what was there before
    if args.blend:
        write_blend()
    if args.release or args.blend:
        return None
    held_out = {name: pool(split) for name, split in HELD_OUT.items()}
    for run in runs.released_runs() if args.evaluate else ():
        write_metrics(run, held_out)
    for name, (windows, _) in held_out.items() if args.evaluate else ():
        mean_vote = np.tile(targets(windows).mean(axis=0), (len(windows), 1))
        print(f"mean vote of {name}: KL {kl_divergence(targets(windows), mean_vote):.3f}")
    if args.evaluate:
        return None
    windows, arrays = pool(HELD_OUT["shifted"], LEARNED)
    for name in args.names:
        config = recipe_config(name)
        options = {"runs_dir": runs_dir(), "hours": args.hours}
        for run in training.train([config], windows, arrays, **options):
            if args.pack and not (args.pack / name).exists():
                pack(run, args.pack / name, held_out)
    return None


if __name__ == "__main__":
    main()
