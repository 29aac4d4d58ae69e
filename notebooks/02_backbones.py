# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2 · Four backbones, fine-tuned
#
# EfficientNetV2-B2, ResNet50 V2, MobileNetV3-Large and DenseNet201, each with a softmax over the
# six classes, trained on soft votes and judged on patients they have never seen.
#
# **Reads** the windows and images of notebook 1 (computes what is missing). **Writes** one folder
# per model in `models/runs/`. **Takes** about 6 minutes on two cores in the demo profile. **Next:**
# 3 · WaveNet and concatenation.

# %%
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from subprocess import check_call

if not find_spec("hmsutils"):  # on Kaggle, where an attached data set holds it
    mounts = Path(os.environ.get("HMS_KAGGLE_INPUT", "/kaggle/input"))
    wheels = [*mounts.glob("*/hmsutils-*.whl"), *mounts.glob("datasets/*/*/hmsutils-*.whl")]
    check_call([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", *wheels])

# %% tags=["parameters"]
DATA_DIR = None  # None: the competition's files where they are found, else a simulated competition
PROFILE = None  # None: "full" for the competition's files, "demo" for a simulated one; or "smoke"
RUNS_DIR = None  # None: models/runs
SETTINGS = {}  # of training.TrainConfig, instead of the profile's: {"epochs": 3}

# %%
import matplotlib.pyplot as plt
import numpy as np

from hmsutils import augment, evaluation, files, models, plots, records, store, training

competition = files.find_competition(DATA_DIR)
config = training.profile(competition, PROFILE, SETTINGS)

# %%
windows = records.load_windows(competition, on_problem="exclude")
windows = records.assign_folds(records.one_per_vote_run(windows), config.n_folds, config.seed)
arrays = store.build(competition, windows, {"image": config.image, "eeg": config.eeg})
held_out = windows[windows.fold.isin(config.folds)]
print(
    f"{len(windows) - len(held_out):,} windows to train on, {len(held_out):,} of "
    f"{held_out.patient_id.nunique()} other patients to judge by"
)

# %% [markdown]
# ## The four backbones
#
# One table in `hmsutils.models` says where each comes from and how large it is. In the full profile
# they start from their ImageNet presets, and where those cannot be found the notebook stops and
# says how to attach them. Images arrive in [0, 1], and nothing rescales them a second time.

# %%
for name, spec in models.BACKBONES.items():
    print(
        f"{name:20s} {spec.params / 1e6:5.1f} M parameters, {spec.features} features, {spec.source}"
    )

# %% [markdown]
# ## Augmentation
#
# Few windows, many weights: every epoch shows each window changed in ways that do not change what
# an expert would say. Image and EEG of a window always get the same hemisphere swap, shift and
# gain; MixUp blends the soft labels as well. Gain and MixUp are off unless `SETTINGS` says
# otherwise: in `benchmarks/ablation_competition.md` both cost KL.

# %%
row = int(np.argmax(windows.target_LPD.to_numpy()))
batch = {"image": np.repeat(arrays["image"][row : row + 1].astype(np.float32), 2, axis=0)}
other = arrays["image"][int(np.argmax(windows.target_Seizure.to_numpy()))].astype(np.float32)
rng = np.random.default_rng(1)
batch["image"][1] = other
gallery = {
    "as stored": batch["image"][0],
    "hemispheres swapped": augment.swap_hemispheres(batch, np.array([True, False]))["image"][0],
    "6 dB louder": augment.scale_amplitude(batch, np.array([6.0, 0.0]), config.image)["image"][0],
    "2 s later": augment.shift_time(batch, np.array([2.0, 0.0]), config.image)["image"][0],
    "chains dropped": augment.drop_channels(batch, 0.4, rng)["image"][0],
}

# %%
gallery["time masked"] = augment.mask_time(batch, 0.5, rng)["image"][0]
gallery["frequency masked"] = augment.mask_frequency(batch, 0.5, rng)["image"][0]
gallery["mixed with a seizure"] = augment.mixup(batch, np.eye(6)[[1, 0]], 5.0, rng)[0]["image"][0]
figure, axes = plt.subplots(2, 4, figsize=(12, 5), layout="constrained")
for ax, (title, image) in zip(axes.flat, gallery.items()):
    ax.imshow(image[..., 1], aspect="auto", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)
    ax.axis("off")

# %% [markdown]
# ## Fine-tuning
#
# Kullback–Leibler loss on the votes, AdamW, warm-up and cosine decay, the best epoch on the
# held-out fold is kept. Each run is a folder with its config, weights, history and held-out
# predictions. Running this cell again finds finished runs; an interrupted one goes on after its
# last complete epoch.

# %%
configs = [training.single_config(config, name) for name in models.BACKBONES]
runs = training.train(configs, windows, arrays, runs_dir=RUNS_DIR, n_jobs=training.jobs())

# %%
histories = {run.name.rsplit("-", 1)[0]: evaluation.read_run(run)[1] for run in runs}
figure = plots.plot_history(histories)

# %% [markdown]
# ## Results on held-out patients
#
# The official metric (KL, lower is better) and accuracy against the experts' consensus, with 95 %
# intervals from drawing **patients** again: rows of one patient are not independent, and an
# interval that ignores it is too narrow. Two baselines that have seen no EEG stand beside them.

# %%
table = evaluation.results(runs)
if competition.kind != "simulated":  # the notebook this one re-creates: one fold, hard labels
    published = {name: spec.published_accuracy for name, spec in models.BACKBONES.items()}
    table["published accuracy"] = table.index.map(published)
table.round(3)

# %%
figure = plots.plot_comparison(table)

# %% [markdown]
# The table mixes two populations of raters. Separately:

# %%
strata = [s for s in evaluation.STRATA if s != "all"]
for stratum in strata:
    part = evaluation.results(runs, stratum)
    print(f"\nvotes {stratum} ({part['rows'].iloc[0]} windows)")
    print(part[["KL", "KL low", "KL high", "accuracy"]].astype(float).round(3).to_string())

# %% [markdown]
# ## Where they err
#
# The best backbone's confusions, and how it does on each class. Experts themselves agree with the
# consensus in about 65 % of windows, and confuse neighbours: a rhythm with no clear side, a
# discharge that is almost a rhythm.

# %%
best = min(runs, key=lambda run: evaluation.read_run(run)[0]["metrics"]["all"]["KL"])
description, _, oof = evaluation.read_run(best)
figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.8), layout="constrained")
plots.plot_confusion(evaluation.confusion(oof), description["name"], ax=left)
plots.plot_reliability({description["name"]: evaluation.reliability(oof)}, ax=right)
evaluation.per_class(oof).round(3)

# %% [markdown]
# The backbones see pictures. The next notebook adds a network that hears the signal itself.
