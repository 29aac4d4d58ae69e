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
# Optuna proposes settings of the WaveNet, trains each for a few epochs, and stops what falls behind
# the median of the trials before it. The study is one SQLite file: run this notebook again and it
# goes on; start it twice and both share the work.
#
# **Reads** the competition's windows where they are found, else new simulated ones: learned from
# the domain `WIDE`, judged by `SHIFTED`, whose waves and machines `WIDE` does not have. **Writes**
# `models/runs/search/study.db`. **Takes** about 8 minutes on two cores. Not part of
# `make notebooks`: `make search` runs it.

# %% tags=["parameters"]
DATA_DIR = None  # None: the competition's files where they are found, else simulated windows
PROFILE = None  # None: "full" for the competition's files, "demo" for simulated ones; or "smoke"
N_TRIALS = 10  # finished or pruned trials that the study shall have
EPOCHS = 3
N_WINDOWS = 2000  # simulated windows to learn from
STUDY_DIR = None  # None: models/runs/search
SETTINGS = {}  # of training.TrainConfig, instead of the profile's

# %%
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import optuna

from hmsutils import brain, files, records, search, simulate, store, training

competition = files.find_competition(DATA_DIR)
config = training.profile(competition, PROFILE, SETTINGS)
base = replace(config, towers=("wavenet",), weights=None, epochs=EPOCHS, batch_size=32)
inputs = {"eeg": base.eeg}

# %%
if competition.kind == "simulated":
    learned = simulate.Part(N_WINDOWS, brain.WIDE, (2**29, 0), fold=1, opinions=True)
    judged = simulate.Part(
        max(100, N_WINDOWS // 4), brain.SHIFTED, (2**29, 1), fold=0, panels=(simulate.MANY,)
    )
    windows, arrays = simulate.simulate_pool([judged, learned], inputs, store.default_dir())
else:
    windows = records.one_per_vote_run(records.load_windows(competition, on_problem="exclude"))
    windows = records.assign_folds(windows, base.n_folds, base.seed)
    arrays = store.build(competition, windows, inputs)
n_judged = int((windows.fold == base.folds[0]).sum())
print(f"{len(windows) - n_judged:,} windows to learn from, {n_judged:,} to judge by")

# %% [markdown]
# ## The study

# %%
folder = Path(STUDY_DIR or files.project_dir() / "models" / "runs" / "search")
study = search.search(base, windows, arrays, folder, n_trials=N_TRIALS, n_jobs=training.jobs())
trials = study.trials_dataframe(attrs=("number", "state", "value", "duration", "params"))
trials = trials[trials.state.isin(["COMPLETE", "PRUNED"])].sort_values("value")
trials.columns = [name.removeprefix("params_") for name in trials]
trials.drop(columns="duration").round(4)

# %% [markdown]
# ## What mattered
#
# Left: every trial's held-out KL after each epoch; those that end early were pruned. Right: how
# much of the differences between trials each setting explains. With few trials this is a hint.

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
# `search.best_config` gives them as a config that `training.train` takes.

# %%
best = search.best_config(study, base)
for name in ("learning_rate", "weight_decay", "dropout", "wavenet", "augmentation"):
    print(f"{name}: {getattr(best, name)}")
