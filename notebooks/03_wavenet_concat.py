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
# # 3 · A WaveNet on the raw EEG, and what concatenation gains
#
# A spectrogram forgets the shape of a wave. A WaveNet reads the signal itself; its features and
# those of each backbone are concatenated before one softmax. Does that help, and by how much beyond
# chance?
#
# **Reads** the runs of notebook 2 (trains what is missing). **Writes** five more runs to
# `models/runs/`. **Takes** about 4 minutes on two cores in the demo profile. **Next:** 4 ·
# inference.

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
import pandas as pd
from IPython.display import display

from hmsutils import brain, evaluation, files, models, plots, records, simulate, store, training

competition = files.find_competition(DATA_DIR)
config = training.profile(competition, PROFILE, SETTINGS)

# %%
windows = records.load_windows(competition, on_problem="exclude")
windows = records.assign_folds(records.one_per_vote_run(windows), config.n_folds, config.seed)
arrays = store.build(competition, windows, {"image": config.image, "eeg": config.eeg})

# %% [markdown]
# ## The WaveNet
#
# Convolutions whose taps lie 1, 2, 4 … samples apart: each layer doubles what one output can see.
# Every layer has a **gate** (tanh · sigmoid), passes its input on (**residual**), and hands a copy
# to the output (**skip**). Mean and maximum over time make the features.

# %%
wavenet = config.wavenet
seen_s = wavenet.receptive_field / 40
model = models.build_wavenet((2000, len(config.eeg.pairs)), wavenet)
print(
    f"dilations {wavenet.dilations}, {wavenet.filters} filters: {model.count_params():,} "
    f"parameters, one output sees {wavenet.receptive_field} samples = {seen_s:.1f} s"
)

# %% [markdown]
# ## Training it, with the backbones of notebook 2 beside it

# %%
names = [*models.BACKBONES, models.WAVENET]
configs = [training.single_config(config, name) for name in names]
singles = training.train(configs, windows, arrays, runs_dir=RUNS_DIR, n_jobs=training.jobs())
*backbone_runs, wavenet_run = singles

# %% [markdown]
# ## Four concatenations
#
# A concatenation starts from its two trained parts: towers copied, and a head that predicts their
# normalised geometric mean, weighted as in their best blend; then the new head is trained on top.
# In the demo profile MobileNetV3-Large with the WaveNet goes on from the released concatenation
# instead, whose towers learned together from simulated EEG.

# %%
concat = [
    training.concat_config(config, (name, models.WAVENET), (run, wavenet_run))
    for name, run in zip(models.BACKBONES, backbone_runs)
]
concat_runs = training.train(concat, windows, arrays, runs_dir=RUNS_DIR, n_jobs=training.jobs())

# %%
histories = {
    run.name.rsplit("-", 1)[0]: evaluation.read_run(run)[1] for run in [wavenet_run, *concat_runs]
}
figure = plots.plot_history(histories)

# %% [markdown]
# ## All models side by side
#
# The same held-out patients for every row; 95 % intervals from drawing patients again.

# %%
table = evaluation.results([*singles, *concat_runs])
table.round(3)

# %%
figure = plots.plot_comparison(table)

# %% [markdown]
# ## What concatenation gains
#
# Two models judged on the same windows share most of their luck, so we look at the **difference**
# window by window. A gain is real where its interval leaves out 0: KL below it, accuracy above it.

# %%
oofs = {run: evaluation.read_run(run)[2] for run in [*singles, *concat_runs]}
gains = {}
for name, single, both in zip(models.BACKBONES, backbone_runs, concat_runs):
    gains[f"{name}, with WaveNet"] = evaluation.gain(oofs[both], oofs[single]).stack()
    gains[f"WaveNet, with {name}"] = evaluation.gain(oofs[both], oofs[wavenet_run]).stack()
pd.DataFrame(gains).T.round(3)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
for ax, metric in zip(axes, ("KL", "accuracy")):
    part = pd.DataFrame({name: gain[metric] for name, gain in gains.items()}).T
    ax.hlines(range(len(part)), part.low, part.high, color="#9aa5b1", lw=3)
    ax.plot(part.difference, range(len(part)), "o", color="#1f3b73")
    ax.axvline(0, color="k", lw=0.8)
    ax.set_yticks(range(len(part)), part.index, fontsize=7)
    ax.set_xlabel(f"change of {metric}")

# %% [markdown]
# ## A larger jury
#
# The held-out windows come from few patients, so their intervals are wide. Where the competition is
# simulated there are more patients for the asking: each of these windows is of a new one, whom no
# model has seen. Are the concatenation and its two parts as far apart there?

# %%
N_JURY = 600 if competition.kind == "simulated" else 0
if N_JURY:
    part = simulate.Part(N_JURY, brain.STANDARD, (2**28,), fold=0, balanced=False)
    inputs = {"image": config.image, "eeg": config.eeg}
    jury, jury_arrays = simulate.simulate_pool([part], inputs, store.default_dir())

# %%
small, verdicts = list(models.BACKBONES).index("mobilenet_v3_large"), {}
for run in (concat_runs[small], backbone_runs[small], wavenet_run) if N_JURY else ():
    model, settings = training.load_model(run, config.folds[0])
    batch = {key: jury_arrays[key].astype("float32") for key in settings.inputs}
    prediction = model.predict(batch, batch_size=64, verbose=0)
    verdicts[settings.name] = evaluation.with_prediction(jury, prediction)
if N_JURY:
    both, *parts = verdicts.values()
    display(evaluation.compare(verdicts).round(3))

# %%
if N_JURY:
    names = [f"concatenation against {name}" for name in list(verdicts)[1:]]
    rows = [evaluation.gain(both, part).stack() for part in parts]
    display(pd.DataFrame(rows, index=names).round(3))

# %% [markdown]
# ## A blend
#
# Models that err differently can be averaged with weights that sum to 1. The weights are fitted on
# the very predictions they are judged by, so the honest number is **nested**: every patient is
# blended with weights fitted on the other patients.

# %%
named = {evaluation.read_run(run)[0]["name"]: oof for run, oof in oofs.items()}
blended, weights = evaluation.nested_blend(named)
best_single = min(named, key=lambda name: evaluation.score(named[name]).loc["all", "KL"])
print("weights:", {name: round(weight, 2) for name, weight in weights.items() if weight > 0.005})
everyone = {f"{best_single} (best)": named[best_single], "nested blend": blended}
evaluation.compare(everyone).round(3)

# %% [markdown]
# ## By number of votes, and by class

# %%
for stratum in [s for s in evaluation.STRATA if s != "all"]:
    part = evaluation.results([*singles, *concat_runs], stratum)
    print(f"\nvotes {stratum} ({part['rows'].iloc[0]} windows)")
    print(part[["KL", "KL low", "KL high", "accuracy"]].astype(float).round(3).to_string())

# %%
best = min(concat_runs, key=lambda run: evaluation.read_run(run)[0]["metrics"]["all"]["KL"])
description, _, oof = evaluation.read_run(best)
figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.8), layout="constrained")
plots.plot_confusion(evaluation.confusion(oof), description["name"], ax=left)
curves = {description["name"]: oof, "wavenet": oofs[wavenet_run]}
plots.plot_reliability({name: evaluation.reliability(o) for name, o in curves.items()}, ax=right)
evaluation.per_class(oof).round(3)

# %% [markdown]
# The runs lie in `models/runs/`; the next notebook predicts with the best of them.
