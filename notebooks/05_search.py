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
# # 5 · Search: which settings train a better WaveNet?
#
# A network's weights are learned. Its *settings* are chosen before: for example the learning rate,
# or how wide and how deep the network is. Optuna is a library for such choices: it proposes
# settings, and the results tell it which ones to propose next. One proposal and its training is a
# *trial*. All trials together are a *study*.
#
# **What is searched:** eleven settings of the WaveNet, the network on the EEG signal of notebook 3.
# **On whom it is judged:** on patients that no trial learned from, by the KL of the predictions for
# them after the last epoch (notebook 2 explains KL; lower is better). A trial is *pruned*, that is
# stopped early, if its KL after an epoch is above the median of the trials before it.
#
# **Reads** the competition's windows where they are found, else it simulates windows. **Writes**
# `study.db` and two trained runs into a folder of `models/runs/search/`. Run this notebook again
# and the study goes on; start it twice and both work on the same study. **Takes** about 10 minutes
# on two cores. `make notebooks` leaves it out; `make search` runs it.

# %% tags=["parameters"]
DATA_DIR = None  # None: the competition's files where they are found, else simulated windows
PROFILE = None  # None: "full" for the competition's files, "demo" for simulated ones; or "smoke"
N_TRIALS = 10  # the study goes on until so many trials are finished or pruned
EPOCHS = 3
N_WINDOWS = 2000  # simulated windows to train on
STUDY_DIR = None  # None: models/runs/search/, a folder for every number of windows and epochs
SETTINGS = {}  # of config.TrainConfig, instead of the profile's

# %%
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

# %%
from hmsutils import devices, evaluation, files, models, runs, search, simulate, store, training
from hmsutils.config import profile, single_config

competition = files.find_competition(DATA_DIR)
config = profile(competition, PROFILE, SETTINGS)

# %% [markdown]
# ## The defaults
#
# `base` has the settings that a trial starts from, and keeps where nothing else is proposed. Every
# trial starts from random weights. The demo profile's own learning rate is for networks that start
# from released weights, so that the rate for untrained ones replaces it.

# %%
untrained = replace(config, init_from=(), learning_rate=1e-3)
inputs = {"eeg": config.inputs["eeg"]}
changes = {"inputs": inputs, "epochs": EPOCHS, "batch_size": 32, "folds": config.folds[:1]}
base = replace(single_config(untrained, models.WAVENET), **changes)

# %% [markdown]
# ## The windows
#
# The competition's patients are divided into folds; those of one fold are held out. Without the
# competition's files, windows are simulated. A *domain* describes a hospital: what its patients'
# brain waves, artefacts and amplifiers are like. Trials learn from the domain `WIDE`, where all of
# these differ widely. They are judged by `SHIFTED`, another hospital: other shapes of waves, other
# background activity, other filters. So a trial wins by what also works elsewhere. Every simulated
# window is of another patient; `MANY` says that ten or more raters vote on each for validation.

# %%
if competition.kind == "simulated":
    n_validation = max(100, N_WINDOWS // 4)
    learned = simulate.Split(N_WINDOWS, simulate.WIDE, (2**29, 0), fold=1, soft_labels=True)
    options = {"fold": 0, "populations": (simulate.MANY,)}
    validation = simulate.Split(n_validation, simulate.SHIFTED, (2**29, 1), **options)
    windows, arrays = simulate.simulate_pool([validation, learned], inputs, store.default_dir())
else:
    windows, arrays = training.prepare(competition, base)
n_held_out = (windows.fold == base.folds[0]).sum()
n_learned = len(windows) - n_held_out
print(f"{n_learned:,} windows to train on, {n_held_out:,} for validation")

# %% [markdown]
# ## The study
#
# The eleven settings:
#
# - `learning_rate`: how far each step moves the weights; `weight_decay`: how much each step pulls
#   them towards 0; `dropout`: the share of features that the head does not see in a step.
# - `wavenet_filters`: the width of the network; `wavenet_layers`: its depth.
# - Augmentation changes windows while the network learns. `flip_hemispheres`: how often left and
#   right are exchanged; `shift_s`: by how many seconds at most a window is moved; `gain_db`: how
#   much its loudness varies; `drop_channel`, `time_mask`: how much of its derivations or of its
#   time is blanked; `mixup`: how strongly two windows and their votes are mixed.
#
# A study compares trials on the same windows, after the same number of epochs. The folder's name
# has both numbers, so that other numbers begin another study.

# %%
name = f"{competition.kind}-{n_learned}-windows-{EPOCHS}-epochs"
folder = Path(STUDY_DIR or runs.default_dir() / "search" / name)
n_jobs = devices.default_n_jobs()
study = search.search(base, windows, arrays, folder, n_trials=N_TRIALS, n_jobs=n_jobs)

# %%
ended = [trial for trial in study.get_trials(states=search.ENDED) if trial.intermediate_values]
settings = [*study.best_params]
trials = pd.DataFrame([trial.params for trial in ended], [trial.number for trial in ended])
trials.insert(0, "KL, first epoch", [t.intermediate_values[0] for t in ended])
trials.insert(1, "KL, last epoch", [t.value if t.state.name == "COMPLETE" else None for t in ended])
trials.index.name = "trial"
print(f"{len(ended)} trials, {trials['KL, last epoch'].isna().sum()} of them pruned")
display(trials.astype(float).sort_values(["KL, last epoch", "KL, first epoch"]).round(4))

# %% [markdown]
# ## Does the best trial beat the defaults?
#
# The defaults and the best trial's settings are trained alike, on the same windows for the same
# epochs. In the figure every line is one training; a pruned trial ends where it was stopped.

# %%
best = search.best_config(study, base)
options = {"runs_dir": folder, "n_jobs": min(2, n_jobs)}
of_default, of_best = training.train([base, best], windows, arrays, **options)

# %%
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
styles = {"COMPLETE": {"color": "#1f6fb4", "marker": "o", "label": "finished trial"}}
styles["PRUNED"] = {"color": "#8a8f98", "marker": "x", "label": "pruned trial"}
curves = [(trial.intermediate_values, styles[trial.state.name]) for trial in ended]
defaults = {"color": "#c0271d", "marker": "s", "ls": "--", "label": "defaults"}
curves.append((dict(enumerate(of_default.history()["val_kl"])), defaults))
for values, style in curves:
    kl = pd.Series(values).sort_index()
    ax.plot(kl.index + 1, kl, **{"lw": 1.2 if len(kl) > 2 else 0, "ms": 6} | style)
ax.set(xlabel="epoch", ylabel="held-out KL (nats); ↓ better", xticks=range(1, EPOCHS + 1))
lines = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))  # one of each kind
legend = ax.legend(lines.values(), lines.keys(), loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown]
# The difference in KL is paired: for each held-out window, the KL of the best trial minus that of
# the defaults. Below 0 the best trial is better. Its 95 % interval is over patients.

# %%
table = {"defaults": of_default.oof(), f"trial {study.best_trial.number}": of_best.oof()}
display(evaluation.compare(table).round(3))
change = evaluation.paired_difference(of_best.oof(), of_default.oof()).loc["KL"]
print(f"Best trial − defaults: {change.difference:+.3f} [{change.low:+.3f}, {change.high:+.3f}].")
if change.low <= 0 <= change.high:
    print("The interval includes 0: on these patients, neither is shown to be better.")
else:
    word = "below 0: the best trial is" if change.high < 0 else "above 0: the defaults are"
    print(f"The interval is {word} better, on these patients after training for so long.")

# %% [markdown]
# This comparison flatters the best trial. It was chosen because it was good on these very patients,
# and part of that is luck. `python benchmarks/search.py` runs a longer search and then compares on
# patients by whom no trial was judged.
#
# ## Which settings made the difference?
#
# The best trial differs from the defaults in many settings at once, so it cannot say which of them
# helped. All trials together can say a little, the pruned ones too: for each setting, the rank
# correlation (Spearman's) between its value and the KL after the first epoch. With so few trials,
# chance alone makes correlations. The grey band holds 19 of 20 of those that chance makes; of
# eleven settings, one may well lie outside it by chance.

# %%
correlation = trials.astype(float).corr("spearman")["KL, first epoch"][settings]
chance = min(1.0, 1.96 / np.sqrt(max(len(trials) - 1, 1)))
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.axvspan(-chance, chance, color="#e3e6ea", label="chance")
ax.barh(settings[::-1], correlation[::-1].fillna(0), color="#1f6fb4")
ax.axvline(0, color="k", lw=0.8)
ax.set(xlim=(-1, 1), xlabel="rank correlation with KL (no unit)")
ax.set_title("← better with larger values          worse with larger values →", fontsize=9)
legend = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown]
# ## Where the best trial contradicts the defaults
#
# `moved` is how far the best trial's value lies from the default, as a share of the range that was
# searched; learning rate and weight decay are searched, and compared, on a logarithmic scale.

# %%
defaults = {"wavenet_filters": base.wavenet.filters, "wavenet_layers": len(base.wavenet.dilations)}
defaults |= {**vars(base), **vars(base.augmentation)} | defaults
rows = {}
for name, kind in study.best_trial.distributions.items():
    low, *_, high = getattr(kind, "choices", None) or (kind.low, kind.high)
    found, scale = study.best_params[name], np.log if getattr(kind, "log", False) else np.asarray
    ends = scale([low, high, defaults[name], found])
    row = {"from": low, "to": high, "default": defaults[name], "best trial": found}
    rows[name] = row | {"moved": (ends[3] - ends[2]) / (ends[1] - ends[0])}
contrast = pd.DataFrame(rows).T.astype(float).assign(correlation=correlation)
display(contrast.round(4))

# %%
moved = contrast[contrast["moved"].abs() > 0.25]
agrees = (np.sign(moved["moved"]) * moved["correlation"]) < -chance
print("Moved by over a quarter of the range:", ", ".join(moved.index) or "no setting")
print("  all trials together agree:", ", ".join(moved.index[agrees]) or "for none of them")
print("  they do not:", ", ".join(moved.index[~agrees]) or "none")

# %% [markdown]
# Where all trials together agree, the default deserves a longer test. Where they do not, the value
# came along with the others in a trial that won as a whole, for example by its learning rate, and
# is no reason to change the default. Each default has better evidence behind it: trainings in which
# that setting alone was changed (`benchmarks/ablation_recipe.md`). MixUp is an example: there it
# raises KL, so the defaults leave it off, even if a winner of this search has it on.
#
# `search.best_config(study, base)` returns the best trial's settings; `training.train` takes them.
#
# ## Exercises
#
# Each changes one parameter in the cell at the top. Run everything again.
#
# 1. `N_TRIALS = 20`. The study goes on with ten more trials. Expect a best KL that is equal or
#    lower, as the lowest of more numbers is never higher, and a narrower grey band.
# 2. `EPOCHS = 6`. A new study begins; each trial takes twice as long. Expect lower KLs, and a
#    smaller distance between trials: a low learning rate needs more epochs, and now has them.
# 3. `N_WINDOWS = 500`. Expect higher KLs, and a wider interval of the difference, because there
#    are fewer windows to learn from and fewer for validation.
