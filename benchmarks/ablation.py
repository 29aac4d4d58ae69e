"""What each setting is worth: one training for each, with the same windows, seed and epochs.

    python benchmarks/ablation.py recipe        # how a WaveNet is trained
    python benchmarks/ablation.py images        # what a MobileNetV3-Large sees
    python benchmarks/ablation.py concat        # how the two are joined
    python benchmarks/ablation.py competition --epochs 6    # few patients, seen often
    python benchmarks/ablation.py context --epochs 20       # the 10 minutes around a window
    python benchmarks/ablation.py long-eeg --windows 12000 --epochs 10      # or long-image

Small networks, trained from random weights on simulated windows of the domain WIDE, are evaluated
on 1,500 windows of SHIFTED, whose waves, backgrounds and machines they never saw. In `competition`
they learn from the votes of a simulated competition, and are evaluated on 1,500 other patients of
its domain; in `context`, where windows need the 10 minutes around them, on half of its own.
"difference in KL" is the paired difference to the first line of a table, with its 95 % interval
over patients: below 0 is better. Trained lines stay in models/runs/ablation: a second call only
prints. Writes ablation_<part>.md.
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

from hmsutils import evaluation, runs, store, training
from hmsutils.augment import NO_AUGMENTATION
from hmsutils.competition import (
    PREDICTION_COLUMNS,
    TARGET_COLUMNS,
    VOTE_COLUMNS,
    Competition,
    home_dir,
)
from hmsutils.config import TrainConfig
from hmsutils.files import find_competition
from hmsutils.models import WaveNetConfig
from hmsutils.records import assign_folds, label_groups, load_windows, targets
from hmsutils.representations import Image, WaveNetInput
from hmsutils.simulate import (
    MANY,
    SHIFTED,
    STANDARD,
    WIDE,
    Split,
    simulate_competition,
    simulate_pool,
)

COLUMNS = """\
Every row changes one thing against the first row, the reference; rows with "+" do not add up. KL:
lower is better; accuracy: higher is better. "difference in KL" is the row's KL minus the
reference's, on the same held-out windows: negative is better, positive is worse. "95 %" is the
interval of that difference over patients; if it includes 0, no difference is shown."""
SEED = 2**30  # no patient of a simulated competition or of the released models' pool
SMALL, EEG = Image(n_mels=16, n_frames=64), WaveNetInput()
FINE = replace(SMALL, n_mels=8, n_frames=128)
BASE = TrainConfig(
    inputs={"image": SMALL, "eeg": EEG}, weights=None,
    augmentation=replace(NO_AUGMENTATION, flip_hemispheres=0.5),
    wavenet=WaveNetConfig(16, features=64), folds=(0,), batch_size=32, dropout=0.1,
)  # fmt: skip
MOBILENET = replace(BASE, towers=("mobilenet_v3_large",), learning_rate=1e-3)
WAVENET = replace(BASE, towers=("wavenet",), learning_rate=2e-3)


@dataclass(frozen=True)
class Line:
    """One line of a table: what is trained, on which arrays, towards which targets."""

    name: str
    config: TrainConfig
    sees: str = "eeg"  # see `seen_by`
    learns: str = "soft labels"  # a key of what `data` returns
    init_from: tuple["Line", ...] = ()  # of lines on the same windows; one epoch less is trained


def _augmented(name: str, config: TrainConfig = WAVENET, learns="soft labels", **changes) -> Line:
    augmentation = replace(config.augmentation, **changes)
    return Line(name, replace(config, augmentation=augmentation), learns=learns)


def _looks_at(image: Image) -> TrainConfig:
    return replace(MOBILENET, inputs={"image": image})


IMAGES = [
    Line("crops of 50, 25 and 10 s", MOBILENET, "crops"),
    Line("50 s only", MOBILENET, "whole"),
    Line("10 s only", MOBILENET, "centre"),
    Line("crops, each image normalised by itself", MOBILENET, "per image"),
    Line("crops, half the bands, twice the columns", _looks_at(FINE), "fine"),
    Line("raw EEG as an image", _looks_at(replace(SMALL, n_frames=100)), "raw"),
]
RECIPE = [
    Line("WaveNet, flipped hemispheres, soft labels", WAVENET),
    Line("learning rate 5e-3 instead of 2e-3", replace(WAVENET, learning_rate=5e-3)),
    Line(
        "24 filters instead of 16", replace(WAVENET, wavenet=replace(WAVENET.wavenet, filters=24))
    ),
    _augmented("without flipped hemispheres", flip_hemispheres=0.0),
    _augmented("+ time shift up to 1 s", shift_s=1.0),
    _augmented("+ gain of 3 dB", gain_db=3.0),
    _augmented("+ dropped derivations", drop_channel=0.1),
    _augmented("+ time mask", time_mask=0.1),
    _augmented("+ MixUp", mixup=0.2),
    Line("+ averaged weights", replace(WAVENET, ema_momentum=0.99)),
    Line("patients of STANDARD", WAVENET, learns="standard"),
    Line("votes instead of soft labels", WAVENET, learns="votes"),
    Line("votes, then a second stage on ≥10", replace(WAVENET, refine_votes=10), learns="votes"),
]  # fmt: skip
BOTH = replace(WAVENET, towers=("mobilenet_v3_large", "wavenet"), learning_rate=1e-4)
SINGLES = (IMAGES[0], RECIPE[0])
HEAD = Line(
    "the head alone at 1e-3", replace(BOTH, freeze_towers=True, learning_rate=1e-3),
    "both", "soft labels", SINGLES,
)  # fmt: skip
CONCAT = [
    Line("all layers at 1e-4", BOTH, "both", "soft labels", SINGLES),
    HEAD,
    Line("all layers at 1e-3", replace(BOTH, learning_rate=1e-3), "both", "soft labels", SINGLES),
    Line("the head alone, then all layers at 1e-4", BOTH, "both", "soft labels", (HEAD,)),
]
OFTEN = replace(WAVENET, learning_rate=5e-3, dropout=0.3)
COMPETITION = [
    Line("one row of every label group, flipped hemispheres", OFTEN, learns="one row"),
    Line("another row of it every epoch", OFTEN, learns="all rows"),
    _augmented("+ time shift up to 1 s", OFTEN, "one row", shift_s=1.0),
    _augmented("+ gain of 3 dB", OFTEN, "one row", gain_db=3.0),
    _augmented("+ dropped derivations", OFTEN, "one row", drop_channel=0.1),
    _augmented("+ time mask", OFTEN, "one row", time_mask=0.1),
    _augmented("+ MixUp", OFTEN, "one row", mixup=0.2),
    Line("+ averaged weights", replace(OFTEN, ema_momentum=0.99), learns="one row"),
    Line("then a second stage on ≥10 votes", replace(OFTEN, refine_votes=10), learns="one row"),
]
# What the full profile switches on or off, at the length of a serious run: `--windows 12000
# --epochs 10`. Patients of the competition's domain, targets are their votes.
LONG_EEG = replace(OFTEN, batch_size=64)
LONG_IMAGE = replace(MOBILENET, dropout=0.3, batch_size=64)
SWITCHES = {
    "+ time shift up to 1 s": {"shift_s": 1.0},
    "+ gain of 3 dB": {"gain_db": 3.0},
    "+ dropped derivations": {"drop_channel": 0.1},
    "+ time mask": {"time_mask": 0.1},
    "+ frequency mask": {"frequency_mask": 0.1},
    "+ MixUp": {"mixup": 0.2},
}


def _long(config: TrainConfig, sees: str) -> list[Line]:
    switches = {k: v for k, v in SWITCHES.items() if sees == "crops" or "frequency" not in k}
    changes: dict[str, dict] = {"flipped hemispheres, votes": {}}
    for name, switch in switches.items():
        changes[name] = {"augmentation": replace(config.augmentation, **switch)}
    changes["+ averaged weights"] = {"ema_momentum": 0.99}
    changes["then a second stage on ≥10 votes"] = {"refine_votes": 10}
    return [Line(k, replace(config, **v), sees, "standard votes") for k, v in changes.items()]


TEN = replace(SMALL, durations_s=(50.0, 600.0, 10.0))
SPARED = replace(
    MOBILENET, n_folds=4, folds=(0, 1),
    augmentation=replace(MOBILENET.augmentation, drop_context=0.2),
)  # fmt: skip
CONTEXT = [
    Line("crops of 50, 25 and 10 s", SPARED, "crops", "folds"),
    Line("10 minutes instead of 25 s", replace(SPARED, inputs={"image": TEN}), "ten", "folds"),
    Line(
        "10 minutes as a fourth part of the picture",
        replace(SPARED, inputs={"image": replace(SMALL, n_mels=24)}), "fourth", "folds",
    ),
]  # fmt: skip
PARTS = {
    "recipe": RECIPE, "images": IMAGES, "concat": CONCAT, "competition": COMPETITION,
    "long-eeg": _long(LONG_EEG, "eeg"), "long-image": _long(LONG_IMAGE, "crops"),
    "context": CONTEXT,
}  # fmt: skip


def seen_by(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """A network's inputs, in one of the representations that are compared."""
    if name == "both":
        return {"image": arrays["crops"], "eeg": arrays["eeg"]}
    if name in arrays:
        return {"eeg" if name == "eeg" else "image": arrays[name]}
    if name == "raw":
        return {"image": raw_image(EEG.decode(arrays["eeg"]))}
    crops = arrays["crops"]
    if name == "fourth":  # below the bands of each chain; eight of the ten minutes' sixteen
        parts = [crops, np.repeat(arrays["ten"][..., 1:2], 3, axis=-1)]
        chains = [part.reshape(len(part), 4, 16, 64, 3) for part in parts]
        chains[1] = chains[1].reshape(len(crops), 4, 8, 2, 64, 3).mean(axis=3).astype(np.uint8)
        return {"image": np.concatenate(chains, axis=2).reshape(len(crops), 96, 64, 3)}
    if name == "per image":
        low, high = (f(crops, axis=(1, 2), keepdims=True).astype("f2") for f in (np.min, np.max))
        return {"image": (crops - low) / np.maximum(high - low, np.float16(0.255))}
    crop = {"whole": 0, "centre": 2}[name]
    return {"image": np.repeat(crops[..., crop : crop + 1], 3, axis=-1)}


def raw_image(eeg: np.ndarray) -> np.ndarray:
    """(N, 2000, 18) → (N, 64, 100, 3): the central 10 s, LL, LP, RP, RL, four rows a channel."""
    chains = eeg[:, 800:1200, [*range(4), *range(8, 16), *range(4, 8)]]
    rows = np.moveaxis(chains, 1, 2).reshape(len(eeg), 64, 100, 1).astype(np.float16)
    return np.repeat(np.clip(0.5 + rows / 8, 0, 1), 3, axis=-1)


def train_line(
    line: Line, windows: pd.DataFrame, arrays: dict, runs_dir: Path, epochs: int
) -> runs.Run:
    """The run of a line; finished ones are kept."""
    folder = runs_dir / re.sub(r"\W+", "-", line.name)
    starts = [train_line(start, windows, arrays, runs_dir, epochs) for start in line.init_from]
    names = tuple(os.path.relpath(start, folder) for start in starts)
    epochs = epochs - 1 if line.config.refine_votes or starts else epochs
    config = replace(line.config, init_from=names, epochs=epochs)
    return training.train([config], windows, seen_by(arrays, line.sees), runs_dir=folder)[0]


def after_training(run: runs.Run, stored: np.ndarray) -> dict[str, pd.DataFrame]:
    """What can be had without training: the flipped montage, and a temperature."""
    oof, model = run.oof(), training.load_model(run, 0)[0]
    prediction = oof[list(PREDICTION_COLUMNS)].to_numpy()
    flipped = {"eeg": EEG.flip_hemispheres(EEG.decode(stored[: len(oof)]))}
    both = (prediction + model.predict(flipped, batch_size=64, verbose=0)) / 2
    halves, target, warm = np.arange(len(oof)) % 2, targets(oof), np.empty_like(prediction)
    for half in (0, 1):  # fitted on one half of the patients, evaluated on the other
        fitted = evaluation.fit_temperature(target[halves != half], prediction[halves != half])
        warm[halves == half] = evaluation.apply_temperature(prediction[halves == half], fitted)
    return {
        "+ flipped montage at test time": evaluation.with_prediction(oof, both),
        "+ temperature, of the other half": evaluation.with_prediction(oof, warm),
    }


def without_context(run: runs.Run, windows: pd.DataFrame, stored: np.ndarray) -> pd.DataFrame:
    """Out-of-fold predictions of a run that looks at `TEN`, with the context absent."""
    parts, image = [], TEN.decode(stored)
    image[..., TEN.context_channels] = 0
    for fold, part in run.oof().groupby("fold", sort=False):
        rows = pd.Index(windows["label_id"]).get_indexer(part["label_id"])
        model = training.load_model(run, fold)[0]
        prediction = model.predict({"image": image[rows]}, batch_size=64, verbose=0)
        parts.append(evaluation.with_prediction(part, prediction))
    return pd.concat(parts)


def table(oofs: dict[str, pd.DataFrame]) -> str:
    """Markdown: KL and accuracy of every line, and its paired difference to the first."""
    first = next(iter(oofs.values()))
    rows = ["| | KL | accuracy | difference in KL | 95 % |", "|---|---|---|---|---|"]
    for name, oof in oofs.items():
        every = evaluation.score(oof, ["all"]).loc["all"]
        kl = evaluation.paired_difference(oof, first).loc["KL"]
        change = f"{kl['difference']:+.3f} | {kl['low']:+.3f} … {kl['high']:+.3f}"
        change = change if oof is not first else " | "
        rows.append(f"| {name} | {every['KL']:.3f} | {every['accuracy']:.3f} | {change} |")
    return "\n".join(rows)


def data(part: str, n_windows: int, n_jobs: int) -> dict[str, tuple[pd.DataFrame, dict]]:
    """What a part's lines learn from, by name: windows, fold 0 held out, and their arrays."""
    options = {"out_dir": store.default_dir(), "n_jobs": n_jobs}
    if part == "competition":
        return _competition(options)
    if part == "context":
        rows = assign_folds(label_groups(load_windows(_rehearsal())), SPARED.n_folds)
        return {"folds": (rows, store.build(_rehearsal(), rows, {"crops": SMALL, "ten": TEN}))}
    if part.startswith("long"):
        held_out = Split(1500, STANDARD, (SEED, 3), fold=0, balanced=False)
        learned = Split(n_windows, STANDARD, (SEED, 4), fold=1, balanced=False)
        windows, arrays = simulate_pool(
            [held_out, learned], {"eeg": EEG, "crops": SMALL}, **options
        )
        return {"standard votes": (windows, arrays)}
    held_out = Split(1500, SHIFTED, (SEED, 0), fold=0, populations=(MANY,))
    wide = Split(n_windows, WIDE, (SEED, 1), fold=1, soft_labels=True)
    inputs = {"eeg": EEG, "crops": SMALL, "fine": FINE}
    windows, arrays = simulate_pool([held_out, wide], inputs, **options)
    votes, voted = windows[list(VOTE_COLUMNS)].to_numpy(), windows.copy()
    voted[list(TARGET_COLUMNS)] = votes / windows[["n_votes"]].to_numpy()
    out = {"soft labels": (windows, arrays), "votes": (voted, arrays)}
    if part == "recipe":
        standard = replace(wide, domain=STANDARD)
        out["standard"] = simulate_pool([held_out, standard], {"eeg": EEG}, **options)
    return out


def _rehearsal() -> Competition:
    root = home_dir() / "data" / "rehearsal"
    if not (root / "train.csv").exists():
        simulate_competition(root, 460)
    return find_competition(root)


def _competition(options: dict) -> dict[str, tuple[pd.DataFrame, dict]]:
    """The votes of 460 patients, and 1,500 others of the same domain as a test set."""
    inputs, competition = {"eeg": EEG}, _rehearsal()
    split = Split(1500, STANDARD, (SEED, 2), fold=0)
    held_out, arrays = simulate_pool([split], inputs, **options)
    rows = label_groups(load_windows(competition)).assign(fold=1)
    stored = store.build(competition, rows, inputs, **options)
    held_out["label_group"] = rows["label_group"].max() + 1 + np.arange(len(held_out))
    windows = pd.concat([held_out.assign(is_representative=True), rows], ignore_index=True)
    both = {"eeg": np.concatenate([arrays["eeg"], stored["eeg"]])}
    kept = windows["is_representative"].to_numpy()
    one_row = windows[kept].reset_index(drop=True), {"eeg": both["eeg"][kept]}
    return {"one row": one_row, "all rows": (windows, both)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--windows", type=int, default=8000, help="of WIDE")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    frames = data(args.part, args.windows, args.jobs)
    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"  # processes are the parallelism
    runs_dir = home_dir() / "models" / "runs" / "ablation"
    lines = PARTS[args.part]
    trained = Parallel(args.jobs)(
        delayed(train_line)(line, *frames[line.learns], runs_dir, args.epochs) for line in lines
    )
    oofs = {line.name: run.oof() for line, run in zip(lines, trained, strict=True)}
    if args.part == "recipe":
        oofs |= after_training(trained[0], frames["soft labels"][1]["eeg"])
    if args.part == "context":
        windows, arrays = frames["folds"]
        oofs["10 minutes, absent in the evaluation"] = without_context(
            trained[1], windows, arrays["ten"]
        )
    command = f"python benchmarks/ablation.py {args.part} --windows {args.windows}"
    text = f"`{command} --epochs {args.epochs}`\n\n{COLUMNS}\n\n{table(oofs)}\n"
    print(text)
    (Path(__file__).parent / f"ablation_{args.part}.md").write_text(text)


if __name__ == "__main__":
    main()
