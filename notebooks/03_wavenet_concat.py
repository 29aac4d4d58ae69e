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
# A spectrogram does not keep the shape of a wave. A WaveNet sees the signals themselves; its
# features and those of each backbone are concatenated before one softmax. Is that better than
# either part alone, and by how much?
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

import matplotlib.pyplot as plt
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
# Convolutions whose taps lie 1, 2, 4 … samples apart: each layer doubles what one output can see.
# Every layer has a **gate** (tanh · sigmoid), passes its input on (**residual**), and hands a copy
# to the output (**skip**). Mean and maximum over time make the features.

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
# A concatenation starts from two trained parts: a backbone of notebook 2, and the WaveNet. Their
# towers, which make the features, are copied; the head starts as the weighted mean of their logits,
# with the weights of the parts' best blend. Then all of it is trained, at a tenth of the learning
# rate and for half of the epochs.
#
# The demo profile trains the head alone. MobileNetV3-Large with the WaveNet is the exception there:
# it starts from the released concatenation of the two, and all of it is trained.

# %%
singles = [single_config(config, name) for name in (*models.BACKBONES, models.WAVENET)]
folders = {single.name: training.run_folder(single, windows, "").name for single in singles}
concats = []
for name in models.BACKBONES:
    parts = (name, models.WAVENET)
    concats.append(concat_config(config, parts, [folders[part] for part in parts]))

# %% [markdown]
# ## Training them
#
# What notebook 2 has finished is kept, and what it has begun goes on. If its settings were others
# than here, that is printed first. Fold by fold, the parts come before what starts from them.

# %%
session = {"n_jobs": devices.default_n_jobs(), "hours": hours, "since": began}
session |= {"runs_dir": RUNS_DIR, "allow_cpu": ALLOW_CPU}
runs = training.train([*singles, *concats], windows, arrays, **session)
found = {run.name: run for run in runs}
if missing := [c.name for c in (*singles, *concats) if c.name not in found]:
    print("No fold is done yet, so that it is left out below:", ", ".join(missing))

# %% [markdown]
# The weights kept are those after the last epoch. The best one by the held-out patients would seem
# to have a KL that is lower by:

# %%
for run in runs:
    print(f"{run.name:30s} folds {run.folds}; {run.description['optimism']:.3f}")
if new := {name: run.history() for name, run in found.items() if name not in models.BACKBONES}:
    figure = plots.plot_history(new)

# %% [markdown]
# ## All models side by side
#
# The same held-out windows for every row: those of the folds that every model in it has. 95 %
# intervals by bootstrap over patients.

# %%
table = evaluation.results(runs) if runs else pd.DataFrame()
table.round(3)

# %%
if runs:
    figure = plots.plot_comparison(table)

# %% [markdown]
# ## The difference that concatenation makes
#
# A window that is hard for one model is mostly hard for the other too. The **difference** of two
# models, window by window, therefore has a narrower interval than each model's own score. The
# concatenation is better where the interval excludes 0: below it for KL, above it for accuracy.


# %%
def differences_of(oofs):
    pairs = [(c.name, part) for c in concats for part in c.towers]
    there = [(concat, part) for concat, part in pairs if {concat, part} <= set(oofs)]
    change = evaluation.paired_difference
    rows = {f"{c} - {part}": change(oofs[c], oofs[part]).stack() for c, part in there}
    return pd.DataFrame(rows).T


oofs = {name: run.oof() for name, run in found.items()}
differences = differences_of(oofs)
differences.round(3)

# %%
if len(differences):
    figure, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True, layout="constrained")
for ax, metric in zip(axes, ("KL", "accuracy")) if len(differences) else ():
    part = differences[metric]
    ax.hlines(range(len(part)), part.low, part.high, color="#9aa5b1", lw=3)
    ax.plot(part.difference, range(len(part)), "o", color="#1f3b73")
    ax.axvline(0, color="k", lw=0.8)
    ax.set_yticks(range(len(part)), part.index, fontsize=7)
    ax.set_xlabel(f"difference of {metric}")

# %% [markdown]
# ## More patients
#
# The held-out windows come from few patients, so their intervals are wide. Where the competition is
# simulated, more patients can be simulated: 600 windows, each of a new patient, that no model was
# trained on. Every model is evaluated on them.

# %%
on_new = {}
if competition.kind == "simulated" and found:
    split = simulate.Split(600, simulate.STANDARD, (2**28,), fold=0, balanced=False)
    test, stored = simulate.simulate_pool([split], config.inputs, store.default_dir())
    for name, run in found.items():
        model, _ = training.load_model(run, run.folds[0])
        batch = {key: config.inputs[key].decode(stored[key]) for key in model.input}
        prediction = model.predict(batch, batch_size=64, verbose=0)
        on_new[name] = evaluation.with_prediction(test, prediction)
    display(evaluation.compare(on_new).round(3))

# %% [markdown]
# Does a concatenation beat both of its parts? It does where the 95 % interval of the
# difference in KL lies below 0.

# %%
if len(more := differences_of(on_new)):
    display(more.round(3))
for pair, row in more.iterrows():
    low, high = row["KL", "low"], row["KL", "high"]
    verdict = "better" if high < 0 else "worse" if low > 0 else "not clearly different"
    print(f"{pair}: {verdict}")

# %% [markdown]
# ## A blend
#
# Predictions of several models can be averaged, with weights that sum to 1; before that, each model
# is calibrated with its temperature, as in inference. A blend is scored too well on the windows
# that its weights were fitted on. The score here is therefore **nested**: every patient is blended
# with weights and temperatures fitted on the other patients.

# %%
if runs:
    blended, weights = evaluation.nested_blend(runs)
    table = evaluation.compare(oofs | {"nested blend": blended})
    table.insert(0, "weight", pd.Series({run.name: weight for run, weight in weights.items()}))
if runs and competition.kind != "simulated":
    # In the notebook that this one re-creates, on one fold, trained on hard labels.
    published = {name: spec.published_accuracy for name, spec in models.BACKBONES.items()}
    table["published accuracy"] = table.index.map(published)
table.round(3)

# %% [markdown]
# If the nested blend has a lower KL than the best run, its weights are written beside the runs, in
# `blend.json`; else that file says that there is no blend.

# %%
if runs:
    best, kl = evaluation.best_run(runs), table["KL"]
    kept = {run.folder.name: weight for run, weight in weights.items() if weight >= 0.01}
    kept = {folder: weight / sum(kept.values()) for folder, weight in kept.items()}
    is_better = kl["nested blend"] < kl[best.name]
    write_blend(RUNS_DIR, kept if is_better else {}, kl["nested blend"])
    print(f"KL of the nested blend {kl['nested blend']:.4f}, of {best.name} {kl[best.name]:.4f}")
    print(f"blend.json: {'the weights' if is_better else 'no blend'}")

# %% [markdown]
# ## By number of votes, and by class

# %%
evaluation.by_stratum(runs).round(3) if runs else None

# %%
shown = [found[c.name] for c in concats if c.name in found] or runs
if shown:
    best = evaluation.best_run(shown)
    oof, curves = oofs[best.name], {k: oofs[k] for k in (best.name, "wavenet") if k in oofs}
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.8), layout="constrained")
    plots.plot_confusion(evaluation.confusion(oof), best.name, ax=left)
    curves = {name: evaluation.reliability(curve) for name, curve in curves.items()}
    plots.plot_reliability(curves, ax=right)
    display(evaluation.per_class(oof).round(3))

# %% [markdown]
# The runs lie in `models/runs/`. The next notebook predicts with the blend if it was written, else
# with the best run.
