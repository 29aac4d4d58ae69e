"""What every choice is worth: one line per switch, the same windows, seed and number of epochs.

    python benchmarks/ablation.py recipe        # how a WaveNet is trained
    python benchmarks/ablation.py images        # what a MobileNetV3-Large sees
    python benchmarks/ablation.py concat        # how the two are joined
    python benchmarks/ablation.py competition --epochs 6    # few patients, seen often

Small networks, trained from random weights on simulated windows of the domain WIDE, are judged on
1,500 of SHIFTED, whose waves, backgrounds and machines they never saw. In the last part they learn
from the votes of a simulated competition, and are judged on 1,500 other patients of its domain.
"gain" is the paired change of KL against the first line of a table, with its 95 % interval over
patients: below 0 is better. Trained lines stay in models/runs/ablation: a second call only prints.
Writes ablation_<part>.md.
"""

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from hmsutils import evaluation, store, training
from hmsutils.augment import NO_AUGMENTATION, swap_hemispheres
from hmsutils.brain import SHIFTED, STANDARD, WIDE
from hmsutils.files import (
    PREDICTION_COLUMNS,
    TARGET_COLUMNS,
    VOTE_COLUMNS,
    find_competition,
    project_dir,
)
from hmsutils.models import WaveNetConfig
from hmsutils.records import load_windows, targets, vote_runs
from hmsutils.simulate import MANY, Part, simulate_competition, simulate_pool
from hmsutils.spectrograms import ImageConfig
from hmsutils.training import TrainConfig

SEED = 2**30  # no patient of a simulated competition or of the released models' pool
SMALL = ImageConfig(n_mels=16, frames=64)
FINE = replace(SMALL, n_mels=8, frames=128)
BASE = TrainConfig(
    image=SMALL, weights=None, augmentation=replace(NO_AUGMENTATION, swap=0.5),
    wavenet=WaveNetConfig(16, features=64), folds=(0,), patience=99, batch_size=32, dropout=0.1,
)  # fmt: skip
MOBILENET = replace(BASE, towers=("mobilenet_v3_large",), learning_rate=1e-3)
WAVENET = replace(BASE, towers=("wavenet",), learning_rate=2e-3)


@dataclass(frozen=True)
class Line:
    """One line of a table: what is trained, on which inputs, towards which targets."""

    name: str
    config: TrainConfig
    inputs: str = "eeg"  # see `represented`
    learn: str = "opinion"  # a key of what `data` returns
    start_from: tuple["Line", ...] = ()  # of lines on the same windows; one epoch less is trained


def _augmented(name: str, config: TrainConfig = WAVENET, learn: str = "opinion", **changes) -> Line:
    return Line(
        name, replace(config, augmentation=replace(config.augmentation, **changes)), learn=learn
    )


IMAGES = [
    Line("zooms of 50, 25 and 10 s", MOBILENET, "zooms"),
    Line("50 s only", MOBILENET, "whole"),
    Line("10 s only", MOBILENET, "centre"),
    Line("zooms, each image normalised by itself", MOBILENET, "per image"),
    Line("zooms, half the bands, twice the columns", replace(MOBILENET, image=FINE), "fine"),
    Line("raw EEG as an image", replace(MOBILENET, image=replace(SMALL, frames=100)), "raw"),
]
RECIPE = [
    Line("WaveNet, hemisphere swap, opinions", WAVENET),
    Line("learning rate 5e-3 instead of 2e-3", replace(WAVENET, learning_rate=5e-3)),
    Line(
        "24 filters instead of 16", replace(WAVENET, wavenet=replace(WAVENET.wavenet, filters=24))
    ),
    _augmented("without the swap", swap=0.0),
    _augmented("+ time shift up to 1 s", shift_s=1.0),
    _augmented("+ gain of 3 dB", gain_db=3.0),
    _augmented("+ dropped derivations", drop_channel=0.1),
    _augmented("+ time mask", time_mask=0.1),
    _augmented("+ MixUp", mixup=0.2),
    Line("+ averaged weights", replace(WAVENET, ema=0.99)),
    Line("patients of STANDARD", WAVENET, learn="standard"),
    Line("votes instead of opinions", WAVENET, learn="votes"),
    Line("votes, then a second stage on ≥10", replace(WAVENET, refine_votes=10), learn="votes"),
]  # fmt: skip
BOTH = replace(WAVENET, towers=("mobilenet_v3_large", "wavenet"), learning_rate=1e-4)
SINGLES = (IMAGES[0], RECIPE[0])
HEAD = Line(
    "the head alone at 1e-3", replace(BOTH, freeze=True, learning_rate=1e-3),
    "both", "opinion", SINGLES,
)  # fmt: skip
CONCAT = [
    Line("all layers at 1e-4", BOTH, "both", "opinion", SINGLES),
    HEAD,
    Line("all layers at 1e-3", replace(BOTH, learning_rate=1e-3), "both", "opinion", SINGLES),
    Line("the head alone, then all layers at 1e-4", BOTH, "both", "opinion", (HEAD,)),
]  # fmt: skip
OFTEN = replace(WAVENET, learning_rate=5e-3, dropout=0.3)
COMPETITION = [
    Line("one row of every vote run, hemisphere swap", OFTEN, learn="middle"),
    Line("another row of it every epoch", OFTEN, learn="rows"),
    _augmented("+ time shift up to 1 s", OFTEN, "middle", shift_s=1.0),
    _augmented("+ gain of 3 dB", OFTEN, "middle", gain_db=3.0),
    _augmented("+ dropped derivations", OFTEN, "middle", drop_channel=0.1),
    _augmented("+ time mask", OFTEN, "middle", time_mask=0.1),
    _augmented("+ MixUp", OFTEN, "middle", mixup=0.2),
    Line("+ averaged weights", replace(OFTEN, ema=0.99), learn="middle"),
    Line("then a second stage on ≥10 votes", replace(OFTEN, refine_votes=10), learn="middle"),
]  # fmt: skip
PARTS = {"recipe": RECIPE, "images": IMAGES, "concat": CONCAT, "competition": COMPETITION}


def represented(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """A network's inputs, in one of the representations that are compared."""
    if name == "both":
        return {"image": arrays["zooms"], "eeg": arrays["eeg"]}
    if name in arrays:
        return {"eeg" if name == "eeg" else "image": arrays[name]}
    if name == "raw":
        return {"image": raw_image(arrays["eeg"])}
    zooms = arrays["zooms"]
    if name == "per image":
        low, high = (f(zooms, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
        return {"image": (zooms - low) / np.maximum(high - low, np.float16(1e-3))}
    zoom = {"whole": 0, "centre": 2}[name]
    return {"image": np.repeat(zooms[..., zoom : zoom + 1], 3, axis=-1)}


def raw_image(eeg: np.ndarray) -> np.ndarray:
    """(N, 2000, 18) → (N, 64, 100, 3): the central 10 s, LL, LP, RP, RL, four rows a channel."""
    chains = eeg[:, 800:1200, [*range(4), *range(8, 16), *range(4, 8)]]
    rows = np.moveaxis(chains, 1, 2).reshape(len(eeg), 64, 100, 1)
    return np.repeat(np.clip(0.5 + rows / 8, 0, 1), 3, axis=-1)


def train_line(line: Line, windows: pd.DataFrame, arrays: dict, runs_dir: Path, epochs: int):
    """The run folder of a line; finished ones are kept."""
    folder = runs_dir / re.sub(r"\W+", "-", line.name)
    starts = [train_line(start, windows, arrays, runs_dir, epochs) for start in line.start_from]
    names = tuple(os.path.relpath(start, folder) for start in starts)
    epochs = epochs - 1 if line.config.refine_votes or starts else epochs
    config, arrays = line.config, represented(arrays, line.inputs)
    config = replace(config, start_from=names, epochs=epochs)
    return training.train([config], windows, arrays, runs_dir=folder)[0]


def after_training(run: Path, eeg: np.ndarray) -> dict[str, pd.DataFrame]:
    """What can be had without training: the flipped montage, and a temperature."""
    oof = evaluation.read_run(run)[2]
    model, config = training.load_model(run, 0)
    prediction = oof[list(PREDICTION_COLUMNS)].to_numpy()
    batch = {"eeg": eeg[: len(oof)].astype(np.float32)}
    flipped = swap_hemispheres(batch, np.ones(len(oof), bool), config.eeg)
    both = (prediction + model.predict(flipped, batch_size=64, verbose=0)) / 2
    halves, target, warm = np.arange(len(oof)) % 2, targets(oof), np.empty_like(prediction)
    for half in (0, 1):  # fitted on one half of the patients, judged on the other
        fitted = evaluation.temperature(target[halves != half], prediction[halves != half])
        warm[halves == half] = evaluation.tempered(prediction[halves == half], fitted)
    return {
        "+ flipped montage at test time": evaluation.with_prediction(oof, both),
        "+ temperature, of the other half": evaluation.with_prediction(oof, warm),
    }


def table(oofs: dict[str, pd.DataFrame]) -> str:
    """Markdown: KL and accuracy of every line, and its paired gain over the first."""
    first = next(iter(oofs.values()))
    rows = ["| | KL | accuracy | gain in KL | 95 % |", "|---|---|---|---|---|"]
    for name, oof in oofs.items():
        every, gain = evaluation.score(oof).loc["all"], evaluation.gain(oof, first).loc["KL"]
        change = f"{gain['difference']:+.3f} | {gain['low']:+.3f} … {gain['high']:+.3f}"
        change = change if oof is not first else " | "
        rows.append(f"| {name} | {every['KL']:.3f} | {every['accuracy']:.3f} | {change} |")
    return "\n".join(rows)


def data(part: str, n_windows: int, n_jobs: int) -> dict[str, tuple[pd.DataFrame, dict]]:
    """What a part's lines learn from, by name: windows, fold 0 held out, and their arrays."""
    pool = {"out_dir": store.default_dir(), "n_jobs": n_jobs}
    eeg = {"eeg": BASE.eeg}
    if part == "competition":
        return _competition(eeg, pool)
    held_out = Part(1500, SHIFTED, (SEED, 0), fold=0, panels=(MANY,))
    wide = Part(n_windows, WIDE, (SEED, 1), fold=1, opinions=True)
    windows, arrays = simulate_pool([held_out, wide], eeg | {"zooms": SMALL, "fine": FINE}, **pool)
    voted = windows.copy()
    voted[list(TARGET_COLUMNS)] = (
        windows[list(VOTE_COLUMNS)].to_numpy() / windows[["n_votes"]].to_numpy()
    )
    out = {"opinion": (windows, arrays), "votes": (voted, arrays)}
    if part == "recipe":
        out["standard"] = simulate_pool([held_out, replace(wide, domain=STANDARD)], eeg, **pool)
    return out


def _competition(eeg: dict, pool: dict) -> dict[str, tuple[pd.DataFrame, dict]]:
    """The votes of 460 patients, and 1,500 others of the same domain to judge by."""
    root = project_dir() / "data" / "rehearsal"
    if not (root / "train.csv").exists():
        simulate_competition(root, 460)
    held_out, arrays = simulate_pool([Part(1500, STANDARD, (SEED, 2), fold=0)], eeg, **pool)
    competition = find_competition(root)
    rows = vote_runs(load_windows(competition)).assign(fold=1)
    stored = store.build(competition, rows, eeg, **pool)
    held_out["vote_run"] = rows["vote_run"].max() + 1 + np.arange(len(held_out))
    windows = pd.concat([held_out.assign(middle=True), rows], ignore_index=True)
    both = {"eeg": np.concatenate([arrays["eeg"], stored["eeg"]])}
    kept = windows["middle"].to_numpy()
    middle = windows[kept].reset_index(drop=True), {"eeg": both["eeg"][kept]}
    return {"middle": middle, "rows": (windows, both)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--windows", type=int, default=8000, help="of WIDE")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    frames = data(args.part, args.windows, args.jobs)
    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"  # processes are the parallelism
    runs_dir = project_dir() / "models" / "runs" / "ablation"
    lines = PARTS[args.part]
    runs = Parallel(args.jobs)(
        delayed(train_line)(line, *frames[line.learn], runs_dir, args.epochs) for line in lines
    )
    oofs = {line.name: evaluation.read_run(run)[2] for line, run in zip(lines, runs, strict=True)}
    if args.part == "recipe":
        oofs |= after_training(runs[0], frames["opinion"][1]["eeg"])
    command = f"python benchmarks/ablation.py {args.part} --windows {args.windows}"
    text = f"`{command} --epochs {args.epochs}`\n\n{table(oofs)}\n"
    print(text)
    (Path(__file__).parent / f"ablation_{args.part}.md").write_text(text)


if __name__ == "__main__":
    main()
