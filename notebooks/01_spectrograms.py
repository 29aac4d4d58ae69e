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
# # 1 · From EEG to spectrograms
#
# An intensive-care EEG is read by experts who vote: is this a **seizure**, one of four patterns on
# the way to one (**LPD, GPD, LRDA, GRDA**), or something **else**? This notebook shows what they
# look at and turns it into what a network looks at.
#
# **Reads** `train.csv`, `train_eegs/`, `train_spectrograms/`. **Writes** `data/processed/<hash>/`.
# **Takes** about 3 minutes on two cores for the simulated competition. **Next:** 2 · backbones.

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

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hmsutils import files, plots, records, spectrograms, training
from hmsutils.competition import CLASSES, SFREQ_HZ, TARGET_COLUMNS, VOTE_COLUMNS
from hmsutils.config import profile

competition = files.find_competition(DATA_DIR)
config = profile(competition, PROFILE)

# %% [markdown]
# ## Rows, votes, patients
#
# A row of `train.csv` is a **window**: 50 s of EEG whose central 10 s were labelled by one to
# twenty-eight experts. The target is their vote share, and a model is evaluated by the
# Kullback–Leibler divergence from it. `load_windows` checks every row (is the file there, is it
# long enough, is the row a duplicate?) and says what is wrong if something is.

# %%
windows = records.load_windows(competition, on_problem="exclude")
print(
    f"{len(windows):,} windows, {windows.eeg_id.nunique():,} EEGs, "
    f"{windows.patient_id.nunique():,} patients"
)
columns = ["eeg_id", "eeg_offset_s", "patient_id", "n_votes", *TARGET_COLUMNS]
windows[columns].head(4).round(2)

# %% [markdown]
# Two things decide how everything after this has to be done. Rows of one EEG are mostly **shifted
# copies** with the same votes, so we keep one of each group of equal votes. And a few **patients**
# contribute many EEGs, so all windows of a patient are in the same fold.

# %%
unique = records.one_per_vote_run(windows)
unique = records.assign_folds(unique, config.n_folds, config.seed)
print(f"{len(windows):,} rows → {len(unique):,} with their own votes")
pd.crosstab(unique.fold, unique.expert_consensus)[list(CLASSES)]

# %% [markdown]
# There are two populations of raters. Where three voted, they mostly agree; where ten or more did,
# they rarely do. Every result in this project is therefore given separately for <3, 3–9 and ≥10
# votes.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
agreement = unique[list(VOTE_COLUMNS)].max(axis=1) / unique.n_votes
few = unique.n_votes < 10
for label, rows in (("under 10 votes", few), ("10 votes and more", ~few)):
    left.hist(agreement[rows], bins=np.linspace(0, 1, 21), alpha=0.7, label=label)
    shares = unique[rows].expert_consensus.value_counts(normalize=True).reindex(CLASSES)
    right.plot(CLASSES, shares, "o-", label=label)
left.set(xlabel="share of votes for the most voted class", ylabel="windows")
right.set(ylabel="share of windows", ylim=(0, None))
left.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## One EEG per class, as a clinician sees it
#
# A page of 10 s in the longitudinal bipolar montage: each line is the difference between two
# neighbouring electrodes, left chains black, right chains blue, negative upwards. A discharge under
# one electrode makes its two neighbours swing towards each other ("phase reversal").

# %%
clearest = {
    name: unique[unique.expert_consensus == name].nlargest(1, [f"target_{name}", "n_votes"]).iloc[0]
    for name in CLASSES
    if (unique.expert_consensus == name).any()
}
examples = {
    name: records.read_eeg(competition, row.eeg_id, row.eeg_offset_s)
    for name, row in clearest.items()
}

# %%
figure, axes = plt.subplots(3, 2, figsize=(9.5, 12), layout="constrained")
for ax, (label, eeg_uv) in zip(axes.flat, examples.items()):
    row = clearest[label]
    votes = ", ".join(f"{c} {row[v]}" for c, v in zip(CLASSES, VOTE_COLUMNS) if row[v])
    plots.plot_eeg(eeg_uv, f"{label} (votes: {votes})", ax=ax)

# %% [markdown]
# - **LPD, GPD**: sharp discharges that return 0.5 to 2 times a second with a visible interval, on
#   one side or on both.
# - **LRDA, GRDA**: smooth delta waves without an interval.
# - **Seizure**: faster than 2.5 Hz, or evolving in frequency, shape or place for ten seconds.
# - **Other**: everything else.
#
# ## The official 10-minute spectrogram
#
# The competition also ships spectrograms: multitaper power of four chains, 4 s windows every 2 s,
# up to 20 Hz. The 50 s of the EEG sit in the middle, between the dashed lines.

# %%
name = "Seizure" if "Seizure" in clearest else next(iter(clearest))
row = clearest[name]
official = records.read_spectrogram(competition, row.spectrogram_id, row.spectrogram_offset_s)
figure = plots.plot_official(official, f"{name}: official spectrogram {row.spectrogram_id}")

# %% [markdown]
# ## Rebuilt from the EEG
#
# Raw EEG is this project's only source: what the official files hold, `regional_multitaper`
# computes from the 50 s themselves. The window that starts at the EEG's first even second must then
# agree with the row of the file, up to what the band-pass filter does at the ends of 50 s.

# %%
rebuilt = spectrograms.regional_multitaper(examples[name][SFREQ_HZ:])[0]
start = 138  # 276 s into the 10 minutes, 1 s into the EEG
pair = np.stack([official[start + 4 : start + 18], rebuilt[4:18]])
difference_db = 10 * np.log10(np.maximum(pair[1], 0.01) / np.maximum(pair[0], 0.01))
loud = pair[0] > 1.0
print(f"rebuilt - official: median {np.median(np.abs(difference_db[loud])):.4f} dB")

# %% [markdown]
# ## Log-mel of 50 s
#
# The recipe most public notebooks start from: a log-mel spectrogram of every difference, scaled to
# the difference's own maximum, averaged per chain. Here it is one matrix product instead of sixteen
# calls of librosa, and equal to librosa within 0.02 dB (a test checks it).

# %%
mel = spectrograms.log_mel(examples[name])
figure, axes = plt.subplots(1, 4, figsize=(9, 2.1), layout="constrained")
for i, (ax, region) in enumerate(zip(axes, spectrograms.MEL_REGIONS)):
    ax.imshow(mel[0, ..., i], origin="lower", aspect="auto", extent=(0, 50, 0, 20))
    ax.set(title=region, xlabel="time (s)", ylabel="Hz" if i == 0 else "")

# %% [markdown]
# ## What the backbones see
#
# Two changes to that recipe. Power is measured against a **fixed** reference, because amplitude
# tells patterns apart and the recipe divides it away. And since the label belongs to the central 10
# s, the three colour channels are three **crops** around the centre (50 s, 25 s, 10 s), each with
# the four chains on top of each other; the shorter the crop, the shorter the analysis window and
# the sharper a discharge.

# %%
to_image = config.inputs["image"]
images = {name: to_image.from_raw(eeg_uv)[0] for name, eeg_uv in examples.items()}
figure, axes = plt.subplots(len(images), 3, figsize=(11, 1.9 * len(images)), layout="constrained")
for row_axes, (label, image) in zip(axes, images.items()):
    plots.plot_image(image, label, to_image, axes=row_axes)

# %% [markdown]
# ## And what the WaveNet sees
#
# Eighteen bipolar signals, 0.5–20 Hz without phase shift, 40 samples a second.

# %%
to_signals = config.inputs["eeg"]
wave = to_signals.from_raw(examples[name])[0]
figure, ax = plt.subplots(figsize=(9, 2.6), layout="constrained")
ax.imshow(wave.T, aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3, extent=(0, 50, 17.5, -0.5))
ax.set_yticks(range(18), [f"{a}–{b}" for a, b in to_signals.pairs], fontsize=6)
ax.set(xlabel="time (s)", title=f"{name}: {wave.shape[0]} samples × {wave.shape[1]} derivations")
plt.show()

# %% [markdown]
# One window from the raw EEG to the votes, in one picture:

# %% tags=["readme"]
shown = "LPD" if "LPD" in examples else name
left, right = plt.figure(figsize=(12, 5), layout="constrained").subfigures(1, 2)
plots.plot_eeg(examples[shown], "Raw EEG: the 10 s that experts label", ax=left.subplots())
top, middle, bottom = right.subfigures(3, 1, height_ratios=(1.3, 1, 1))
plots.plot_image(images[shown], "Image for the backbones", to_image, axes=top.subplots(1, 3))
(ax := middle.subplots()).set_axis_off()
wave = to_signals.from_raw(examples[shown])[0].T
ax.imshow(wave, aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3)
ax.set_title("Signals for the WaveNet", fontsize=9, loc="left")
target = records.targets(unique[unique.label_id == clearest[shown].label_id])[0]
figure = plots.plot_votes(target, {}, "Votes to predict", ax=bottom.subplots()).figure

# %% [markdown]
# ## Compute once, keep
#
# `training.prepare` loads the windows, assigns the folds and computes both representations of every
# window, in parallel, into memory-mapped files. Their folder is named after the settings and the
# data. A computation that is interrupted goes on where it was; a finished one is only opened. The
# arrays hold integers; `decode` of a representation makes float32 of them.

# %%
windows, arrays = training.prepare(competition, config)
for key, array in arrays.items():
    print(f"{key}: {array.shape} {array.dtype}, {array.nbytes / 1e6:.0f} MB")

# %% [markdown]
# The arrays are what the next notebook trains on. Simulated EEG is shaped after published
# measurements, but it is no clinical evidence; notebook 4 looks at real recordings.
