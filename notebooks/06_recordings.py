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
# A recording from an EEG machine is longer than 50 s, has electrodes of other names, another rate
# and times without EEG. This notebook reads one, predicts along it, finds seizures and patterns,
# and writes what a clinician and other programs read. The recording is a simulated hour, so that
# the truth is known and the events can be scored; or it is yours, see the last section.
#
# **Reads** one file: EDF, BDF, BrainVision, EEGLAB or another that MNE reads. It needs no
# competition. **Writes** the table of probabilities (`.csv`), the events (`.tsv`) and a report
# (`.html`) into `data/recordings/`. **Takes** about 2 minutes on two cores.

# %% tags=["parameters"]
RECORDING = None  # your file; None: a recording is simulated
PROFILE = None  # None: an hour is simulated; "smoke": twelve minutes
STEP_S = 5  # seconds from one prediction to the next
RUNS = None  # folders of runs, weighted equally; None: your best one, else the released model
OUT_DIR = None  # None: data/recordings

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
# Two seizures, and lateralized periodic discharges (LPD) for a sixth of the time. Between them is
# the patient's background, twice perhaps with an artefact that resembles a pattern ("Other"). After
# the LPDs the electrodes are unplugged for some time. The patient and the amplifier are drawn from
# the population that the released model learned from; this patient is not one of those.

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
# It is written as an EEG machine would write it: 256 Hz, microvolts in 16 bits, electrodes of other
# names than the competition's (`EEG FP1-Ref`, `T7` for `T3`, `ECG ECG`).

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
# `read_recording` reads the header, finds the electrodes by their names, and warns of what is wrong
# with the file (`notes`). The EEG itself is read later, in pieces: (T, 20) microvolts at 200 Hz.

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
# A row of the table is about the 10 s from `start_s` to `end_s`, which the model sees in the middle
# of 50 s. It has a probability for each class, and says how good the EEG was. Without enough EEG
# there is no prediction, but NaN and a reason (`problem`).

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
# An event begins and ends where the probability of its class crosses .3, and reaches .5 in between;
# it lasts at least 10 s, and events 10 s apart or less are one. A second has the mean probability
# of all rows over it. `EventConfig` has other thresholds. `channels` are the derivations in which
# the amplitude stands out. The file has one line per event, in the form that SzCORE asks of seizure
# detectors; `events.write_annotated` writes a copy of an EDF that has the events as annotations,
# and `events.to_annotations` gives them to MNE.

# %%
found = events.find_events(table)
found["channels"] = events.find_channels(recording, found)
events.write_events(folder / f"{stem}.tsv", found, recording.duration_s, recording.start)
display(found.round(2))
print("The truth:" if truth is not None else "The truth is not known")
display(truth)

# %% [markdown]
# The whole recording: the probability of each class with its events as bars above, the power of
# four regions, and how much of the EEG could be used. Green: the truth. Grey: no prediction.

# %%
figure = plots.plot_timeline(recording, table, found)
for row in truth.itertuples() if truth is not None else ():
    ax = figure.axes[CLASSES.index(row.event)]
    ax.axvspan(row.onset_s, row.onset_s + row.duration_s, color="#2a8a3a", alpha=0.25, lw=0)
display(figure)

# %% [markdown]
# **Burden**: of every hour, the minutes with a prediction, and the share of these in events.

# %%
events.burden(table, found).round(3)

# %% [markdown]
# ## The score
#
# Events are scored as SzCORE (Dan et al., *Epilepsia* 2024) defines it for seizures; here every
# class is scored in the same way. A true event is detected if a found one of its class overlaps
# with it, or with the 30 s before or 60 s after it, however little. A found event that overlaps
# with none of these is a false alarm. Before that, events less than 90 s apart become one, and
# those over 5 minutes are cut every 5 minutes: ten minutes of LPDs count as two events.

# %%
if truth is not None:
    display(events.score(found, truth, recording.duration_s).round(2))

# %% [markdown]
# One simulated patient shows how this is done, and nothing about how good the model is. False
# alarms are counted on many hours of EEG without events, from the hospital that wants to know.

# %% [markdown]
# ## One event
#
# The most certain 10 s of the event with the highest confidence. Orange: what the model's answer
# depends on, the darker the more (gradient saliency). Beside it the image that the model sees, pale
# where Grad-CAM finds nothing for this class. Notebook 4 says what such maps mean, and what not.

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
# One HTML file that loads nothing from elsewhere: what the recording is, the timeline, the burden,
# the list of events, and a page as above for each of the most certain twenty. Open it in a browser;
# print it from there. The patient's name, number and date of birth stay out of it.

# %%
path = folder / f"{stem}.html"
report.write_report(path, recording, table, found, models)
print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, beside {stem}.csv and {stem}.tsv")

# %% [markdown]
# ## Your own recording
#
# Put its name into `RECORDING` above and run everything again; or, for one file or many, without
# a notebook:
#
# ```
# hmsutils predict RECORDING.edf --step 5 --events events.tsv --report report.html --edf copy.edf
# ```
#
# A file whose header names no unit, or a wrong one, needs `read_recording(RECORDING, unit="uV")`
# here, and `--unit uV` there. Nothing here is a medical device: read the EEG.
