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
# # 6 · Recordings: from an EDF to events, a report and a score
#
# The competition's EEGs are 50 s long. A recording from an EEG machine lasts hours, calls its
# electrodes by other names, has another sampling rate, and has times without EEG. This notebook
# reads one, predicts every few seconds of it, finds where seizures and patterns begin and end
# (*events*), and writes files for clinicians and for other programs. The recording is a simulated
# hour. Its truth is known, so that the events can be scored. Your own recording works too; the
# section "Your own recording" says how. Notebook 1 explains the six classes.
#
# **Reads** one file in the format EDF, BDF, BrainVision, EEGLAB, or another that the library MNE
# reads. It needs no competition. **Writes** a table of probabilities (`.csv`), the events (`.tsv`)
# and a report (`.html`) into `data/recordings/`. **Takes** about 2 minutes on two cores.

# %% tags=["parameters"]
RECORDING = None  # your file; None: a recording is simulated
PROFILE = None  # None: an hour is simulated; "smoke": twelve minutes
STEP_S = 5  # seconds from one prediction to the next
RUNS = None  # folders of runs, weighted equally; None: your best one, else the released model
OUT_DIR = None  # None: data/recordings
EVENTS = {}  # of events.EventConfig, instead of its defaults: {"on": 0.8}

# %%
from datetime import date, time
from pathlib import Path

import numpy as np
import pandas as pd
from edfio import Edf, EdfSignal
from edfio import Recording as Header
from IPython.display import display
from scipy.signal import resample_poly

# %%
from hmsutils import events, inference, plots, recordings, report
from hmsutils.competition import CLASSES, ELECTRODES, home_dir, write_csv
from hmsutils.simulate import WIDE, sample_patient, simulate_eeg

folder = Path(OUT_DIR or home_dir() / "data" / "recordings")
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A simulated hour
#
# The plan below has two seizures, and lateralized periodic discharges (LPD) for a sixth of the
# time. The rest is the patient's background EEG; in the two episodes named "Other" it may hold an
# artefact that resembles a pattern. After the LPDs the electrodes are unplugged for some time. The
# patient and the amplifier come from `WIDE`, the description of patients and amplifiers that the
# released model learned from; it did not learn from this patient. Expect results to be better than
# in a real hospital.

# %%
seconds = 720 if PROFILE == "smoke" else 3600
plan = pd.DataFrame(
    [
        (0.15 * seconds, 90.0, "Seizure"), (0.28 * seconds, seconds / 20, "Other"),
        (0.4 * seconds, seconds / 6, "LPD"), (0.75 * seconds, 75.0, "Seizure"),
        (0.88 * seconds, seconds / 20, "Other"),
    ], columns=["onset_s", "duration_s", "event"],
)  # fmt: skip
truth = plan[plan["event"] != "Other"].reset_index(drop=True)

# %%
if RECORDING is None:
    rng, episodes = np.random.default_rng(0), []
    for row in plan.itertuples():
        soft_label = np.eye(6)[CLASSES.index(row.event)] * 0.94 + 0.01  # nearly all raters agree
        episodes.append((row.onset_s, row.onset_s + row.duration_s, soft_label))
    simulated_uv = simulate_eeg(seconds, sample_patient(rng, WIDE.ranges), episodes, rng, WIDE)
    simulated_uv[round(124 * seconds) : round(130 * seconds)] = 0  # unplugged; 200 samples a second

# %% [markdown]
# The hour is written as an EEG machine writes it: 256 samples a second, microvolts as whole numbers
# of 16 bits, and names such as `EEG FP1-Ref`, `EEG T7-Ref` (the newer name of `T3`) and `ECG ECG`.

# %%
if RECORDING is None:
    RECORDING, newer = folder / "simulated.edf", {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
    labels = [f"EEG {newer.get(name, name).upper()}-Ref" for name in ELECTRODES[:-1]] + ["ECG ECG"]
    file_uv = resample_poly(simulated_uv, 32, 25).clip(-3276.8, 3276.7).T  # 256 Hz
    unit = {"physical_dimension": "uV", "physical_range": (-3276.8, 3276.7)}
    channels = [EdfSignal(x, 256, label=name, **unit) for x, name in zip(file_uv, labels)]
    when = {"recording": Header(startdate=date(2026, 1, 2)), "starttime": time(22, 30)}
    Edf(channels, **when).write(RECORDING)
else:
    truth = None

# %% [markdown]
# ## Reading
#
# `read_recording` reads the header, finds the electrodes by their names, and lists what is wrong
# with the file (`notes`). `segments` are the times that hold EEG, in seconds. The EEG itself is
# read later, in pieces, as microvolts at 200 Hz, in arrays of (time, 20 channels).

# %%
recording = recordings.read_recording(RECORDING)
for name in ("sfreq_hz", "start", "duration_s", "segments", "missing", "notes"):
    print(f"{name}: {getattr(recording, name)}")
print("electrodes:", ", ".join(f"{k} ({label})" for k, label in recording.electrodes.items()))

# %%
first_s = min(recording.duration_s, 20.0)
page = {"title": "the first 10 s", "start_s": 0, "seconds": min(first_s, 10)}
figure = plots.plot_eeg(recording.read(0, first_s), **page)

# %% [markdown]
# ## Predicting
#
# Every `STEP_S` seconds the model is given 50 s of EEG and predicts the 10 s in their middle, as in
# the competition. Each of these predictions is a row of a table: from `start_s` to `end_s`, a
# probability for each class, and how good the EEG was. Where there is too little EEG, the
# probabilities are NaN (no number) and `problem` says why.

# %%
models = inference.load_models(
    {Path(run): 1.0 for run in RUNS} if RUNS else inference.default_runs()
)
table = inference.predict_recording(models, recording, step_s=STEP_S)
stem = Path(recording.name).stem
write_csv(folder / f"{stem}.csv", table, float_format="%.6f")
print(f"{len(table)} rows, {(table.problem == '').sum()} with a prediction")
display(table.iloc[[0, len(table) // 2]].round(3))
display(table["problem"].value_counts().drop("", errors="ignore").to_frame("rows"))

# %% [markdown]
# ## Events
#
# The probability of each second is the mean of all rows that cover it. An event of a class is a
# time in which its probability stays above a low threshold (`off`) and somewhere reaches a high one
# (`on`). So a probability that moves around one threshold does not cut an event into pieces. Events
# that are too short are dropped; events of a class that are close together are joined. `EVENTS`, in
# the cell at the top, changes these numbers. `channels` are the derivations where the amplitude is
# larger than elsewhere.
#
# The file has one line per event, in the form that SzCORE (a standard for comparing seizure
# detectors) reads. `events.write_annotated` copies an EDF and adds the events as annotations.

# %%
config = events.EventConfig(**EVENTS)
print(f"on: {config.on}, off: {config.off}, joined when at most {config.max_gap_s:g} s apart")
found = events.find_events(table, config)
found["channels"] = events.find_channels(recording, found)
events.write_events(folder / f"{stem}.tsv", found, recording.duration_s, recording.start)
display(found.round(2))
print("The truth:" if truth is not None else "The truth is not known")
display(truth)

# %% [markdown]
# The whole recording. Top: the probability of each class (0 to 1), with its events as numbered bars
# above it; dotted lines are the two thresholds, hatched times are the truth. Middle: the power at
# every frequency in four regions of the head. Bottom: how many of the 19 electrodes are good, and
# the share of time that is lost. Grey: no prediction, or no EEG.

# %%
figure = plots.plot_timeline(recording, table, found, config)
for row in truth.itertuples() if truth is not None else ():
    ax = figure.axes[CLASSES.index(row.event)]
    span = row.onset_s, row.onset_s + row.duration_s
    ax.axvspan(*span, facecolor="none", edgecolor="#999999", hatch="////", lw=0.5, zorder=0)
display(figure)

# %% [markdown]
# **Burden** says how much of the time a patient spends in events. For each hour of the recording:
# the minutes with a prediction, and the share of these minutes that lies in events of each class.

# %%
events.burden(table, found).round(3)

# %% [markdown]
# ## The score
#
# SzCORE (Dan et al., *Epilepsia* 2024) defines how seizures are scored; here every class is scored
# in that way. First, events less than 90 s apart become one, and events longer than 5 minutes are
# cut every 5 minutes, so that ten minutes of LPDs count as two events. Then:
#
# - A true event is *detected* if a found event of its class overlaps it, or the 30 s before it or
#   the 60 s after it, however little.
# - A found event that overlaps none of these is a *false alarm*.
# - *Sensitivity* is the share of true events that are detected, *precision* the share of found
#   events that are no false alarms. Higher is better for both. NaN: there was no event to count.

# %%
if truth is not None:
    display(events.score(found, truth, recording.duration_s).round(2))

# %% [markdown]
# One simulated patient shows how scores are computed. It shows nothing about how good the model is.
# To know the false alarms, count them on many hours of EEG without events from your own hospital.

# %% [markdown]
# ## One event
#
# Of the event with the highest confidence, the 10 s with the highest probability. Orange: gradient
# saliency; the darker a second of a derivation, the more the model's answer depends on it. Right:
# the crops of the image that the model sees; they turn white where Grad-CAM is small. Notebook 4
# explains these maps and what they cannot say.

# %%
if len(found):
    best = found.nlargest(1, "confidence")
    ((row, figure),) = report.plot_events(recording, table, best, models)
    name = best["event"].item()
    print(f"{name}, {row.start_s:g} to {row.end_s:g} s, probability {row[name]:.2f}")
    display(figure)

# %% [markdown]
# ## The report
#
# The report is one HTML file and needs no internet. It holds what the recording is, the figure of
# the whole recording, the burden, the list of events, and a page as above for each of the twenty
# most certain events. Open it in a browser, and print it from there. The patient's name, number and
# date of birth are not in it.

# %%
path = folder / f"{stem}.html"
report.write_report(path, recording, table, found, models, config=config)
print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, beside {stem}.csv and {stem}.tsv")

# %% [markdown]
# ## Your own recording
#
# Put its path into `RECORDING` in the cell at the top and run everything again. Or use the command
# line, for one file or many:
#
# ```
# hmsutils predict RECORDING.edf --step 5 --events events.tsv --report report.html --edf copy.edf
# ```
#
# If the file's header names no unit, or a wrong one, use `read_recording(RECORDING, unit="uV")`
# here, and `--unit uV` on the command line. Nothing here is a medical device: read the EEG.
#
# ## Exercises
#
# Each changes one parameter in the cell at the top. Run everything again.
#
# 1. `STEP_S = 10`. Half as many predictions in half the time. Expect the same events, with ends
#    that move by a few seconds, because every mean is over fewer rows.
# 2. `EVENTS = {"on": 0.8}`. Expect fewer events: only those whose probability somewhere reaches .8.
#    If a true event is lost, sensitivity falls. If a false alarm is lost, precision rises.
# 3. `RUNS = ["../models/released/wavenet"]`. The WaveNet alone predicts. Expect other confidences,
#    and no image beside the EEG of the event, because the WaveNet sees the signal only.
