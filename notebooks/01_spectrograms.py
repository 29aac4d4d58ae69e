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
# An **EEG** (electroencephalogram) is a record of the voltages that the brain makes on the scalp.
# Experts look at the EEG of a patient in intensive care and vote: is it a **seizure**, one of four
# patterns between normal and seizure (**LPD, GPD, LRDA, GRDA**), or something else (**Other**)?
# This notebook shows what the experts see, and computes from it what the networks see.
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
SETTINGS = {}  # of config.TrainConfig, instead of the profile's: {"n_folds": 5}

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hmsutils import files, inference, plots, records, runs, signals, spectrograms, training
from hmsutils.competition import CLASSES, SFREQ_HZ, TARGET_COLUMNS, VOTE_COLUMNS
from hmsutils.config import profile
from hmsutils.evaluation import kl_divergence

competition = files.find_competition(DATA_DIR)
config = profile(competition, PROFILE, SETTINGS)

# %% [markdown]
# ## Words
#
# - **electrode**: a metal disc on the scalp. Its name says where: Fp prefrontal, F frontal, T
#   temporal, C central, P parietal, O occipital; odd numbers left, even numbers right, z in the
#   middle.
# - **derivation**: the difference between the voltages of two electrodes, in microvolts (µV).
# - **montage**: the list of derivations that are drawn. Here it is the *longitudinal bipolar* one:
#   each derivation is the difference of two neighbours in a **chain** from front to back.
# - **discharge**: a sharp wave, much faster than the waves around it.
# - **LPD**: lateralized periodic discharges: they return at nearly equal intervals, on one side.
# - **GPD**: generalized periodic discharges: the same on both sides.
# - **LRDA**: lateralized rhythmic delta activity: smooth slow waves, one after the other without a
#   pause, on one side. *Delta* is 0.5 to 4 Hz.
# - **GRDA**: generalized rhythmic delta activity: the same on both sides.
# - **spectrogram**: a picture of the power at each frequency (up) and time (to the right).
# - **mel**: a scale of frequency, made for hearing. A *log-mel* spectrogram has the power, in
#   decibels, of bands that are equally wide on it. Up to 20 Hz, the scale is the same as Hz.
# - **multitaper**: a way to compute a spectrogram: each piece of EEG is multiplied by several
#   windows (tapers), and the mean of their spectra varies less by chance than one spectrum does.
#
# The nineteen electrodes of the scalp, seen from above, and the four chains: LL and RL are the left
# and the right lateral chain, LP and RP the left and the right parasagittal one, which is nearer to
# the middle. In all figures, left chains are red and right ones blue.

# %%
figure, ax = plt.subplots(figsize=(5, 4.6), layout="constrained")
at = dict(zip(signals.ELECTRODES, signals.ELECTRODE_XYZ[:, :2]))
for name, chain in signals.CHAINS.items():
    style = {"color": plots.SIDES[name[0]], "lw": 3, "ls": "-" if name[1] == "L" else "--"}
    ax.plot(*np.transpose([at[electrode] for electrode in chain]), label=name, **style)
for name, place in at.items():
    ax.text(*place, name, fontsize=9, ha="center", va="center", bbox={"fc": "w", "ec": "#999999"})
ax.add_patch(plt.Circle((0, 0), 1.1, fill=False))
ax.plot([-0.12, 0, 0.12], [1.09, 1.24, 1.09], "k", lw=1)  # the nose
ax.set(xlim=(-1.6, 1.3), ylim=(-1.15, 1.3), aspect="equal")
ax.legend(title="chain", loc="upper left", frameon=False).figure.gca().set_axis_off()

# %% [markdown]
# How much is looked at: experts label 10 s. The competition gives the 50 s of EEG around them, and
# a spectrogram of the 10 minutes around.

# %%
figure, ax = plt.subplots(figsize=(9, 2.2), layout="constrained")
names = "10 min: spectrogram file", "50 s: EEG, one window", "10 s: labelled by experts"
for y, seconds, part_s in ((2, 600, 50), (1, 50, 10), (0, 10, 10)):
    half = part_s / seconds / 2
    ax.barh(y, 1, color=plots.PALE, height=0.4)
    ax.barh(y, 2 * half, left=0.5 - half, color=plots.MODEL, height=0.4)
    if part_s < seconds:
        for start, end in ((0.5 - half, 0), (0.5 + half, 1)):
            ax.plot([start, end], [y - 0.2, y - 0.8], color="#888888", lw=1)
ax.set_yticks((2, 1, 0), names)
ax.set(xlim=(0, 1), xticks=(), xlabel="time: each bar is the dark part of the bar above, enlarged")
plt.show()

# %% [markdown]
# ## Rows, votes, patients
#
# A row of `train.csv` is a **window**: 50 s of EEG, of which one to twenty-eight experts labelled
# the central 10 s. The **target** of a window is the share of the votes that each class got. A
# model predicts six probabilities; the Kullback–Leibler divergence (KL, explained in notebook 2)
# says how far they are from the target. `load_windows` checks every row (is the file there? is it
# long enough? is the row a duplicate?) and says what is wrong.

# %%
windows = records.load_windows(competition, on_problem="exclude")
print(
    f"{len(windows):,} windows, {windows.eeg_id.nunique():,} EEGs, "
    f"{windows.patient_id.nunique():,} patients"
)
columns = ["eeg_id", "eeg_offset_s", "patient_id", "n_votes", *TARGET_COLUMNS]
windows[columns].head(4).round(2)

# %% [markdown]
# Many rows of one EEG differ only in where the window begins, by a few seconds, and have the same
# votes. Of each such group we keep one row. A few **patients** have many EEGs. Windows of one
# patient look alike, so all of them are put into the same **fold**: a model is always evaluated on
# patients that it was not trained on.

# %%
unique = records.one_per_vote_run(windows)
unique = records.assign_folds(unique, config.n_folds, config.seed)
print(f"{len(windows):,} rows → {len(unique):,} with votes of their own")
pd.crosstab(unique.fold, unique.expert_consensus)[list(CLASSES)]

# %% [markdown]
# Two groups of experts have voted. Where fewer than ten voted, they agree in most windows; where
# ten or more voted, in few. The classes are not equally frequent in the two groups either. Every
# result of this project is therefore also given separately for <3, 3–9 and ≥10 votes.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
agreement = unique[list(VOTE_COLUMNS)].max(axis=1) / unique.n_votes
groups = {"under 10 votes": unique.n_votes < 10, "10 votes and more": unique.n_votes >= 10}
style = {"color": (plots.PALE, plots.MODEL)}
left.hist([agreement[rows] for rows in groups.values()], label=list(groups), **style)
left.set(xlabel="share of votes for the most voted class", ylabel="number of windows")
left.legend(frameon=False)
consensus = pd.DataFrame({k: unique.expert_consensus[rows] for k, rows in groups.items()})
counts = consensus.apply(pd.Series.value_counts, normalize=True).reindex(CLASSES)
counts.plot.bar(ax=right, rot=0, legend=False, **style)
right.set(xlabel="most voted class", ylabel="share of windows")
plt.show()

# %% [markdown]
# ## One window, as experts see it
#
# The examples of this notebook are chosen by a rule: the first of twelve windows in which nothing
# hides the brain's waves. A **blink** moves the prefrontal electrodes Fp1 and Fp2, which are next
# to the eyes, in the same direction. Tense **muscles** make fast waves, over 20 Hz. Both are
# compared with how far the median derivation swings. Missing EEG hides waves too.


# %%
def hidden(eegs):
    """(N,) True where something hides the waves in the labelled 10 s of (N, 10000, 20) µV."""
    whole, quality = signals.repair_with_quality(signals.to_time_last(eegs, "hidden"))
    pairs, page = signals.DOUBLE_BANANA, slice(20 * SFREQ_HZ, 30 * SFREQ_HZ)
    waves = signals.montage(signals.bandpass(whole, 0.5, 40.0), pairs)[..., page]
    fast = signals.montage(signals.bandpass(whole, 20.0, 40.0), pairs)[..., page]
    left, right = (waves[:, pairs.index(pair)] for pair in (("Fp1", "F3"), ("Fp2", "F4")))
    eyes = np.where(left * right > 0, np.minimum(np.abs(left), np.abs(right)), 0).max(axis=1)
    blinks = eyes / np.median(np.abs(waves).max(axis=2), axis=1)
    muscles = fast.std(axis=2).max(axis=1) / np.median(waves.std(axis=2), axis=1)
    return (blinks > 0.9) | (muscles > 0.15) | (quality.lost_centre > 0.01)


# %%
def first_clear(rows):
    """The first window that is not hidden (if all are, the first one), and its EEG in µV."""
    places = rows[["eeg_id", "eeg_offset_s"]].itertuples(index=False)
    eegs = np.stack([records.read_eeg(competition, *place) for place in places])
    best = np.argmin(hidden(eegs))  # the first False
    return rows.iloc[best], eegs[best]


# %% [markdown]
# A page of 10 s in the longitudinal bipolar montage; negative is drawn upwards, as is usual. A
# discharge under one electrode is seen in the two derivations that share it, with opposite signs
# ("phase reversal"). At the right, how the experts voted: here they do **not agree**, and a good
# model must predict that. Below each page is the electrocardiogram (EKG) of the heart.

# %%
many = unique.nlargest(60, "n_votes").index
row, split_uv = first_clear(unique.loc[(agreement[many] - 0.6).abs().nsmallest(12).index])
split = row[list(TARGET_COLUMNS)].to_numpy(np.float64)
options = {"figsize": (9.5, 4.5), "width_ratios": (2, 1), "layout": "constrained"}
figure, (page, bars) = plt.subplots(1, 2, **options)
plots.plot_eeg(split_uv, "The 10 s that were labelled", ax=page)
figure = plots.plot_votes(split, {}, f"{row.n_votes} votes", ax=bars)

# %% [markdown]
# ## One window of each class
#
# Here the experts agree, except in classes where no such window is left.
#
# - **LPD, GPD**: discharges that return 0.5 to 2 times a second, with a pause between two of them;
#   on one side (LPD) or on both (GPD).
# - **LRDA, GRDA**: smooth slow waves without a pause; on one side (LRDA) or on both (GRDA).
# - **Seizure**: discharges or waves faster than 2.5 Hz, or a pattern that changes ("evolves") in
#   frequency, shape or place, for ten seconds.
# - **Other**: everything else.

# %%
clear = {}
for name in CLASSES:
    of_class = unique[unique.expert_consensus == name]
    if len(of_class):
        clear[name] = first_clear(of_class.nlargest(12, [f"target_{name}", "n_votes"]))

# %%
figure, axes = plt.subplots(3, 2, figsize=(9.5, 12), layout="constrained")
for ax, (label, (row, eeg_uv)) in zip(axes.flat, clear.items()):
    votes = ", ".join(f"{c} {row[v]}" for c, v in zip(CLASSES, VOTE_COLUMNS) if row[v])
    plots.plot_eeg(eeg_uv, f"{label} (votes: {votes})", ax=ax)

# %% [markdown]
# ## The official 10-minute spectrogram
#
# The competition's own spectrograms show the power in each of the four chains up to 20 Hz. They are
# multitaper spectra of pieces of 4 s, one every 2 s. The 50 s of the EEG are in the middle, between
# the dashed lines. The unit is decibels (dB): +10 dB is ten times the power. What is white, if
# there is any, was not recorded.

# %%
name = "Seizure" if "Seizure" in clear else next(iter(clear))
row, eeg_uv = clear[name]
official = records.read_spectrogram(competition, row.spectrogram_id, row.spectrogram_offset_s)
figure = plots.plot_official(official, f"{name}: official spectrogram {row.spectrogram_id}")

# %% [markdown]
# ## The same, computed from the EEG
#
# This project computes what the networks see from the raw EEG, by the same code in training and for
# a new recording. The function `regional_multitaper` computes official spectrograms. To check it,
# we compute the 50 s from the EEG, and compare them with the file. A small difference is expected,
# because the file was computed from more than 50 s, and the band-pass filter has no EEG beyond
# their ends.

# %%
rebuilt = spectrograms.regional_multitaper(eeg_uv[SFREQ_HZ:])[0]
start = 138  # 276 s into the 10 minutes, 1 s into the EEG
pair = np.stack([official[start + 4 : start + 18], rebuilt[4:18]])
difference_db = 10 * np.log10(np.maximum(pair[1], 0.01) / np.maximum(pair[0], 0.01))
loud = pair[0] > 1.0
print(f"difference from the file: median {np.median(np.abs(difference_db[loud])):.4f} dB")

# %% [markdown]
# ## Log-mel of 50 s
#
# Most public notebooks of the competition start from this picture: a log-mel spectrogram of every
# derivation, in dB below its own maximum, averaged over the derivations of a chain. Here it is
# computed by one product of matrices instead of sixteen calls of the library librosa. A test checks
# that the two are equal within 0.02 dB.

# %%
mel = spectrograms.log_mel(eeg_uv)[0]
options = {"figsize": (9.5, 2.3), "sharey": True, "layout": "constrained"}
figure, axes = plt.subplots(1, 4, **options)
for ax, region, values in zip(axes, spectrograms.MEL_REGIONS, np.moveaxis(mel, -1, 0)):
    mesh = ax.imshow(40 * values - 40, origin="lower", aspect="auto", extent=(0, 50, 0, 20))
    mesh.set_clim(-40, 0)
    ax.set(title=f"chain {region}", xlabel="time (s)")
axes[0].set_ylabel("frequency (Hz)")
figure.colorbar(mesh, ax=axes, label="dB below maximum")
plt.show()

# %% [markdown]
# ## What the backbones see
#
# A **backbone** is a network for images, see notebook 2. Its image differs from the picture above
# in two ways. First, power is measured against a fixed reference, because the amplitude helps to
# tell the patterns apart, and dividing by the maximum removes it. Second, the label belongs to the
# central 10 s. The three colour channels of the image are therefore three **crops** around the
# centre, in most profiles of 50, 25 and 10 s. In each crop, the four chains are on top of each
# other, each with its frequencies from 0 (bottom) to 20 Hz (top). The shorter the crop, the shorter
# the pieces that its spectra are computed from, and the clearer is each single discharge.

# %%
to_image = config.inputs["image"]
rows = len(clear)
figure, axes = plt.subplots(rows, 3, figsize=(10, 1.9 * rows), squeeze=False, layout="constrained")
for row_axes, (label, (_, eeg_uv)) in zip(axes, clear.items()):
    plots.plot_image(to_image.from_raw(eeg_uv)[0], label, to_image, axes=row_axes)
figure.colorbar(axes[0, 0].images[0], ax=axes, label="dB of white noise of 1 µV", aspect=60)
plt.show()

# %% [markdown]
# ## What the WaveNet sees
#
# A **WaveNet** is a network for signals, see notebook 3. It sees the eighteen derivations
# themselves: 0.5–20 Hz, filtered so that no wave is moved in time, 40 samples a second.


# %%
def plot_signals(eeg_uv, title, ax):
    to_signals = config.inputs["eeg"]
    microvolts = to_signals.scale_uv * to_signals.from_raw(eeg_uv)[0].T
    names = ["–".join(pair) for pair in to_signals.pairs]
    style = {"cmap": "PuOr", "vmin": -100, "vmax": 100, "aspect": "auto"}
    mesh = ax.imshow(microvolts, extent=(0, 50, len(names) - 0.5, -0.5), **style)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_xlabel("time (s)", fontsize=8)
    ax.set_title(title, fontsize=9, loc="left")
    ax.figure.colorbar(mesh, ax=ax, label="µV", extend="both")


# %%
wave = config.inputs["eeg"]
figure, ax = plt.subplots(figsize=(9, 3.8), layout="constrained")
plot_signals(clear[name][1], f"{name}: samples × derivations {wave.shape}", ax)

# %% [markdown]
# ## The road from EEG to probabilities
#
# This is the whole project in one picture, for the window with split votes. Its image and its
# signals go into two networks ("towers"). The features that both compute are put side by side
# (concatenated), and one last layer turns them into six probabilities. The network is the one that
# comes with the package. It was trained on simulated EEG; none of this competition's windows was
# among it.

# %%
trained = inference.load_models([runs.released_run("mobilenet_v3_large+wavenet")])
p = inference.predict(trained, split_uv[None])[0]
image, kl = trained[0].inputs["image"], kl_divergence([split], [p])
pixels = image.from_raw(split_uv)[0]

# %% tags=["readme"]
figure = plt.figure(figsize=(9, 7.6), dpi=130, layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(5, 2.6))
left, right = above.subfigures(1, 2, width_ratios=(1, 1.1))
plots.plot_eeg(split_uv, "1 · EEG: the 10 s that experts label", ax=left.subplots())
top, bottom = right.subfigures(2, 1, height_ratios=(1, 1.5))
plots.plot_image(pixels, "2 · Image for the backbone", image, axes=top.subplots(1, 3))
plot_signals(split_uv, "2 · Signals for the WaveNet, 10 of 50 s", ax := bottom.subplots())
ax.set_xlim(20, 30)
towers, bars = below.subplots(1, 2, width_ratios=(2.5, 1))
plots.plot_network(trained[0].model, ax=towers)
towers.set_title("3 · Two towers, their features concatenated", fontsize=9, loc="left")
figure = plots.plot_votes(split, {"network": p}, f"4 · Beside the votes: KL {kl:.2f}", ax=bars)

# %% [markdown]
# ## Compute once, keep
#
# `training.prepare` loads the windows, assigns the folds, and computes the images and the signals
# of all windows, on all cores, into files. The folder is named after the settings and the data. If
# the computation is interrupted, the next call goes on where it stopped; if all is there, the files
# are only opened. They hold whole numbers; the method `decode` makes float32 of them.

# %%
windows, arrays = training.prepare(competition, config)
for key, array in arrays.items():
    print(f"{key}: {array.shape} {array.dtype}, {array.nbytes / 1e6:.0f} MB")

# %% [markdown]
# The next notebook trains on these arrays. The simulated EEG has the amplitudes, frequencies and
# shapes that publications report, but it is no clinical evidence. Notebook 4 looks at real EEG.
#
# ## Exercises
#
# Change one parameter at the top, run the notebook again, and look for what the text says.
#
# 1. `SETTINGS = {"inputs": {"image": {"n_mels": 64}}}`. Each chain gets 64 rows. The bands of the
#    seizure and its harmonics become thin lines, and the stored images take more memory: in the
#    demo profile, which has 16 rows a chain, four times as much.
# 2. `SETTINGS = {"inputs": {"eeg": {"bandpass_hz": (0.5, 4.0)}}}`. Only delta is left in the
#    WaveNet's signals. The waves of LRDA and GRDA change little. Discharges were narrow stripes and
#    become as wide as those waves; to see it, set `name = "LPD"` before the signals are drawn.
# 3. `SETTINGS = {"n_folds": 6}`. The table of folds has six rows. Each class is still spread evenly
#    over them, but the held-out windows of one fold are fewer, so that results in notebooks 2 and 3
#    would have wider intervals.
