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
# # 3 · A WaveNet on the EEG's signals, and its concatenation with each backbone
#
# A spectrogram shows how much power a frequency has, but not the shape of the waves. A **WaveNet**
# is a network for signals; it sees the shapes. To **concatenate** it with a backbone means: the
# features that both compute are put side by side, and one head turns all of them into six
# probabilities. Is the concatenation better than the backbone or the WaveNet alone, and by how
# much?
#
# **Reads** the runs of notebook 2 (trains what is missing). **Writes** five more runs to
# `models/runs/`, and the weights of a blend if it is better than every run. **Takes** about 4
# minutes on two cores in the demo profile. **Next:** 4 · inference.

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
SETTINGS = {}  # of config.TrainConfig, instead of the profile's: {"epochs": 3}
HOURS = None  # to stop in, epochs complete; None: no limit, on Kaggle 11
ALLOW_CPU = False  # True: also where a CPU needs days

# %%
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

from hmsutils import devices, evaluation, files, models, plots, simulate, store, training
from hmsutils.competition import kaggle_input
from hmsutils.config import concat_config, profile, single_config
from hmsutils.runs import write_blend

# %%
began, hours = time.time(), HOURS or (11 if kaggle_input().exists() else None)
competition = files.find_competition(DATA_DIR)
config = profile(competition, PROFILE, SETTINGS)
windows, arrays = training.prepare(competition, config)

# %% [markdown]
# ## The WaveNet
#
# It consists of convolutions along time. Each computes an output from three samples of its input.
# In the first layer these are neighbours; in the next ones they are 2, 4, 8 … samples apart
# (**dilation**), so that each layer doubles the time that one output sees. Each layer multiplies
# its output by a **gate** from 0 to 1 that it also computes, adds its input to it (**residual**),
# and sends a copy to the end of the network (**skip**). There, the mean and the maximum over time
# of the sum of all copies, of the whole window and of its central 10 s, are the features.

# %%
size, n_params = config.wavenet, models.build_wavenet(config).count_params()
seen_s = size.receptive_field / config.inputs["eeg"].columns_per_s[0]
print(
    f"dilations {size.dilations}, {size.filters} filters: {n_params:,} parameters, "
    f"one output sees {size.receptive_field} samples = {seen_s:.1f} s"
)

# %% [markdown]
# ## Four concatenations
#
# A concatenation starts from two trained models: a backbone of notebook 2, and the WaveNet. Their
# **towers** (all layers but the head) are copied with their weights. Its **head** is put together
# from the two heads: its logits, the numbers that softmax turns into probabilities, start as the
# weighted mean of the logits of the two models. Those weights are the best ones for averaging the
# two models' predictions on training windows. Then the concatenation is trained: in the full
# profile with a tenth of the learning rate and half of the epochs.
#
# In the demo profile only the head is trained, at a learning rate of 0.001. Concatenations that are
# released with the project are the exception: they start from their released weights, and all of
# them is trained, as the backbones were.

# %%
singles = [single_config(config, name) for name in (*models.BACKBONES, models.WAVENET)]
folders = {single.name: training.run_folder(single, windows, "").name for single in singles}
concats = []
for name in models.BACKBONES:
    parts = (name, models.WAVENET)
    concats.append(concat_config(config, parts, [folders[part] for part in parts]))

# %%
network = models.build_model(replace(config, towers=("mobilenet_v3_large", models.WAVENET)))
figure = plots.plot_network(network)

# %% [markdown]
# ## Training
#
# Runs that notebook 2 has finished are kept, and runs that it has begun go on. If their settings
# differ from those here, the differences are printed first. In each fold, the backbones and the
# WaveNet are trained before the concatenations that start from them.

# %%
session = {"n_jobs": devices.default_n_jobs(), "hours": hours, "since": began}
session |= {"runs_dir": RUNS_DIR, "allow_cpu": ALLOW_CPU}
runs = training.train([*singles, *concats], windows, arrays, **session)
found = {run.name: run for run in runs}
if missing := [c.name for c in (*singles, *concats) if c.name not in found]:
    print("No fold is done yet, so that it is left out below:", ", ".join(missing))

# %% [markdown]
# The weights that are kept are those after the last epoch. By how much the KL would seem lower if
# those of the best epoch on the held-out patients were kept:

# %%
for run in runs:
    print(f"{run.name:30s} folds {run.folds}; {run.description['optimism']:.3f}")
if new := {name: run.history() for name, run in found.items() if name not in models.BACKBONES}:
    figure = plots.plot_history(new)

# %% [markdown]
# ## A blend
#
# A **blend** is the weighted mean of the predictions of several models, with weights that sum to 1.
# Before, each model's probabilities are made flatter or sharper by its **temperature**, one number
# per model, as in notebook 4. Weights and temperatures are fitted to held-out windows. On the same
# windows the blend would seem better than it is. Here its predictions are **nested**: the patients
# are split into five groups, and each group is predicted with weights and temperatures that were
# fitted to the other four.
#
# A weight is not a mark. It says how much of the mean comes from a model *beside the others*: a
# good model gets 0 if another one makes the same predictions, and of two models that are alike,
# either may get the weight of both.

# %%
oofs, rows, weights = {name: run.oof() for name, run in found.items()}, {}, {}
if runs:
    blended, weights = evaluation.nested_blend(runs)
    rows = evaluation.baselines(runs[0].oof(), runs[0].prior_mean) | oofs
    rows["nested blend"] = blended

# %% [markdown]
# ## All models side by side
#
# Every row is computed on the same held-out windows: those of the folds that all models have
# finished. *low* and *high* are the ends of 95 % intervals, by bootstrap over patients. In the
# chart, they are the black lines, and the dark bars are the concatenations and the blend.

# %%
table = evaluation.compare(rows) if rows else pd.DataFrame()
if rows:
    by_name = {run.name: weight for run, weight in weights.items()}
    table.insert(0, "weight in blend", pd.Series(by_name, dtype=float))
if rows and competition.kind != "simulated":
    # In the notebook that this one re-creates, on one fold, trained on hard labels.
    published = {name: spec.published_accuracy for name, spec in models.BACKBONES.items()}
    table["published accuracy"] = table.index.map(published)
table.round(3)

# %% tags=["results"]
if rows:
    figure = plots.plot_comparison(table)

# %% [markdown]
# If the nested blend has a lower KL than every single run, its weights are written beside the runs,
# in `blend.json`, and notebook 4 predicts with them; else that file says that there is no blend.

# %%
if rows:
    best, kl = evaluation.best_run(runs), table["KL"]
    kept = {run.folder.name: weight for run, weight in weights.items() if weight >= 0.01}
    kept = {folder: weight / sum(kept.values()) for folder, weight in kept.items()}
    is_better = kl["nested blend"] < kl[best.name]
    write_blend(RUNS_DIR, kept if is_better else {}, kl["nested blend"])
    print(f"KL of the nested blend {kl['nested blend']:.4f}, of {best.name} {kl[best.name]:.4f}")
    print(f"blend.json: {'the weights' if is_better else 'no blend'}")

# %% [markdown]
# ## What concatenation gains
#
# The **gain** of a concatenation over one of its parts is how much lower its KL is, and how much
# higher its accuracy: a gain above 0 is an improvement. It is computed window by window. A window
# that is difficult for one model is mostly difficult for the other too; this cancels in the
# difference, so that the gain has a narrower interval than each model's own score.
#
# The held-out windows are from few patients, and the intervals are wide. If the competition is
# simulated, we simulate 600 more windows, each of a new patient that no model was trained on, and
# evaluate all models on them. Otherwise the gains are computed on the held-out windows.

# %%
N_NEW, on_new = 600, {}
if competition.kind == "simulated" and found:
    split = simulate.Split(N_NEW, simulate.STANDARD, (2**28,), fold=0, balanced=False)
    test, stored = simulate.simulate_pool([split], config.inputs, store.default_dir())
    for name, run in found.items():
        model, _ = training.load_model(run, run.folds[0])
        batch = {key: config.inputs[key].decode(stored[key]) for key in model.input}
        prediction = model.predict(batch, batch_size=64, verbose=0)
        on_new[name] = evaluation.with_prediction(test, prediction)
    display(evaluation.compare(on_new).round(3))


# %%
def gain(concat, part):
    """How much lower KL is, with its interval, and how much higher accuracy is, with its own."""
    change = evaluation.paired_difference(evaluated[concat], evaluated[part]).to_numpy()
    return [*-change[0, [0, 2, 1]], *change[1]]


evaluated = on_new or oofs
pairs = [(concat.name, part) for concat in concats for part in concat.towers]
gains = {f"{a} over {b}": gain(a, b) for a, b in pairs if {a, b} <= set(evaluated)}

# %% [markdown]
# A bar is dark where its 95 % interval is above 0: there, the concatenation is better than that
# part. A pale bar with an interval that includes 0 means that these windows do not tell.

# %%
if gains:
    values = pd.DataFrame(gains).T
    options = {"figsize": (10.5, 0.36 * len(gains) + 1), "sharey": True, "layout": "constrained"}
    figure, axes = plt.subplots(1, 2, **options)
    for ax, i, name in zip(axes, (0, 3), ("KL is lower by (nats)", "accuracy is higher by")):
        colours = np.where(values[i + 1] > 0, plots.MODEL, plots.PALE)
        plots.plot_bars(ax, values[i], values[i + 1], values[i + 2], colours)
        ax.set_xlabel(f"{name}      better →")
    plt.show()
    names = ["KL gain", "KL low", "KL high", "accuracy gain", "accuracy low", "accuracy high"]
    display(values.set_axis(names, axis=1).round(3))

# %% [markdown]
# ## By number of votes, and by class
#
# Compare models within a group only: the groups differ in how far the experts agree.

# %%
evaluation.by_stratum(runs).round(3) if runs else None

# %% [markdown]
# The best concatenation, as notebook 2 shows the best backbone: which classes it takes for which,
# and whether its probabilities and those of the WaveNet alone are right on average (points on the
# diagonal), too cautious (above it) or too sure (below it).

# %%
shown = [found[c.name] for c in concats if c.name in found] or runs
if shown:
    best = evaluation.best_run(shown)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    counts = evaluation.confusion(oofs[best.name])
    mesh = plots.plot_confusion(counts, best.name, ax=left).axes[0].images[0]
    figure.colorbar(mesh, ax=left, label="share of the row", shrink=0.8)
    curves = {k: oofs[k] for k in (best.name, "wavenet") if k in oofs}
    plots.plot_reliability({k: evaluation.reliability(oof) for k, oof in curves.items()}, ax=right)
    display(evaluation.per_class(oofs[best.name]).round(3))

# %% [markdown]
# The runs are in `models/runs/`. The next notebook predicts with the blend if it was written, else
# with the best run.
#
# ## Exercises
#
# Change one parameter and run the notebook again. Runs with other settings get folders of their
# own; `blend.json` is written anew, so run the notebook once more without the change at the end.
#
# 1. `SETTINGS = {"folds": [0, 1, 2]}` (demo profile): every patient is held out once, and training
#    takes three times as long; fold 0 is not trained again. Expect the table to have three times as
#    many windows, and intervals that are narrower by a factor of about 1.7, the square root of 3.
# 2. `SETTINGS = {"dropout": 0.5}`: half of the features are set to 0 in each step. Expect a higher
#    KL on training batches, where features are missing, and a small change in either direction on
#    held-out patients, for whom none is.
# 3. `N_NEW = 150` where the new patients are simulated: a quarter of them. Expect gains near those
#    above, and intervals that are twice as wide, so that more of them include 0.
