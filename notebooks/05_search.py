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
# # 5 · Search: learning rate, augmentation, width and depth
#
# Optuna proposes settings of the WaveNet and trains each for a few epochs. A trial is stopped when
# its held-out KL is above the median of the trials before it. The study is one SQLite file: run
# this notebook again and it goes on; start it twice and both work on the same study.
#
# **Reads** the competition's windows where they are found. Else it simulates windows: the domain
# `WIDE` to train on, `SHIFTED` for validation, whose waves and amplifiers `WIDE` does not have.
# **Writes** `models/runs/search/study.db`. **Takes** about 8 minutes on two cores. Not part of
# `make notebooks`: `make search` runs it.

# %% tags=["parameters"]
DATA_DIR = None  # None: the competition's files where they are found, else simulated windows
PROFILE = None  # None: "full" for the competition's files, "demo" for simulated ones; or "smoke"
N_TRIALS = 10  # finished or pruned trials that the study shall have
EPOCHS = 3
N_WINDOWS = 2000  # simulated windows to train on
STUDY_DIR = None  # None: models/runs/search
SETTINGS = {}  # of config.TrainConfig, instead of the profile's

# %%
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import optuna

from hmsutils import devices, files, models, runs, search, simulate, store, training
from hmsutils.config import profile

competition = files.find_competition(DATA_DIR)
config = profile(competition, PROFILE, SETTINGS)

# %%
inputs = {"eeg": config.inputs["eeg"]}
base = replace(
    config, towers=(models.WAVENET,), inputs=inputs, init_from=(), epochs=EPOCHS, batch_size=32
)

# %%
if competition.kind == "simulated":
    train = simulate.Split(N_WINDOWS, simulate.WIDE, (2**29, 0), fold=1, soft_labels=True)
    n_validation, many = max(100, N_WINDOWS // 4), (simulate.MANY,)
    validation = simulate.Split(
        n_validation, simulate.SHIFTED, (2**29, 1), fold=0, populations=many
    )
    windows, arrays = simulate.simulate_pool([validation, train], inputs, store.default_dir())
else:
    windows, arrays = training.prepare(competition, base)
held_out = windows.fold == base.folds[0]
print(f"{(~held_out).sum():,} windows to train on, {held_out.sum():,} for validation")

# %% [markdown]
# ## The study

# %%
folder, n_jobs = Path(STUDY_DIR or runs.default_dir() / "search"), devices.default_n_jobs()
study = search.search(base, windows, arrays, folder, n_trials=N_TRIALS, n_jobs=n_jobs)
trials = study.trials_dataframe(attrs=("number", "state", "value", "duration", "params"))
trials = trials[trials.state.isin(["COMPLETE", "PRUNED"])].sort_values("value")
trials.columns = [name.removeprefix("params_") for name in trials]
trials.drop(columns="duration").round(4)

# %% [markdown]
# ## Trials, and the importance of each setting
#
# Left: the held-out KL of every trial after each epoch; pruned trials are grey and end early.
# Right: the share of the variance between trials that each setting explains, as Optuna estimates
# it. An estimate from few trials is uncertain.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for trial in study.get_trials(states=search.ENDED):
    kept = trial.state == optuna.trial.TrialState.COMPLETE
    epochs, kl = zip(*sorted(trial.intermediate_values.items()))
    left.plot([e + 1 for e in epochs], kl, "o-", color="#1f3b73" if kept else "#c7cdd4", ms=3)
left.set(xlabel="epoch", ylabel="held-out KL", xticks=range(1, EPOCHS + 1))
importance = optuna.importance.get_param_importances(study)
right.barh(list(importance)[::-1], list(importance.values())[::-1], color="#1f3b73")
right.set_xlabel("importance")

# %% [markdown]
# ## The best settings
#
# `search.best_config` returns the base config with the settings of the trial with the lowest
# held-out KL. `training.train` takes it.

# %%
best = search.best_config(study, base)
print(f"trial {study.best_trial.number}: held-out KL {study.best_value:.3f}")
for name in ("learning_rate", "weight_decay", "dropout", "wavenet", "augmentation"):
    print(f"{name}: {getattr(best, name)}")
