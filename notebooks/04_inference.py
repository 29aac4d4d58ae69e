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
# # 4 · Inference: a submission, and real recordings
#
# From raw EEG to `submission.csv`, checked as the competition checks it. Then maps show what the
# model looked at, and models predict real, expert-labelled recordings, where they are at hand.
#
# **Reads** `test.csv`, `test_eegs/` and trained runs: your own in `models/runs/` where they learned
# from this competition's EEGs (notebook 3's blend, else the best run), on Kaggle attached ones,
# else the released model. **Writes** `submission.csv`. **Takes** about 1 minute on two cores.

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
PROFILE = None  # accepted like in the other notebooks; inference takes everything from the runs
RUNS = None  # folders of runs, weighted equally; None: see above
SUBMISSION = "submission.csv"

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

from hmsutils import download, evaluation, files, inference, kaggle, plots, records, saliency
from hmsutils.competition import CLASSES, PREDICTION_COLUMNS, TARGET_COLUMNS, write_csv
from hmsutils.simulate import SHIFTED, simulate_window

competition = files.find_competition(DATA_DIR)
chosen = {Path(run): 1.0 for run in RUNS} if RUNS else inference.default_runs(competition)

# %% [markdown]
# ## The submission
#
# The first one uses no EEG: every row is the mean target that the runs were trained on. From here
# on there is a valid file. The models' predictions replace it below.

# %%
if has_test := records.table_path(competition, "test").exists():
    submission = inference.prior_submission(chosen, competition)
    write_csv(SUBMISSION, submission)
    print(f"{SUBMISSION}: {len(submission)} rows of the prior mean, for now")
else:
    print(f"{competition.root} has no test.csv, so that there is nothing to submit")

# %% [markdown]
# Every test EEG is repaired, filtered and turned into the models' inputs by the same code as in
# training. The official spectrograms are read where a model looks at them, and a missing one does
# not matter. Predictions are averaged over folds, and over the EEG as it is and with its
# hemispheres exchanged. A file that cannot be read, or that holds too little EEG for an opinion,
# keeps the prior; it is named below.

# %%
models = inference.load_models(chosen)
if has_test:
    submission = inference.make_submission(models, competition)
    write_csv(SUBMISSION, submission)
    print(kaggle.estimate_runtime(models, competition))
    print(f"{SUBMISSION}: {len(submission)} rows in the order of sample_submission.csv, sums of 1")
    display(submission.head().round(3))

# %% [markdown]
# ## What the model looked at
#
# Of a simulated recording it is known where the pattern is. Here is one of each class, from another
# hospital than those that the released model learned from: the first ones whose class is clear.

# %%
shown, seed = {}, 0
while len(shown) < len(CLASSES) - 1:  # all but Other, which has no pattern
    pattern_uv, rng = np.zeros((10_000, 19), np.float32), np.random.default_rng(seed)
    options = {"balanced": True, "pattern_uv": pattern_uv}
    simulated_uv, _, soft_label = simulate_window(rng, SHIFTED, **options)
    if soft_label.max() > 0.8 and soft_label.argmax() < 5:
        shown.setdefault(CLASSES[soft_label.argmax()], (simulated_uv, pattern_uv))
    seed += 1
recordings = [shown[name] for name in CLASSES[:-1]]
simulated_uv, pattern_uv = (np.stack(values) for values in zip(*recordings, strict=True))
cells = saliency.pattern_cells(pattern_uv)

# %% [markdown]
# *Gradient saliency* asks how much the score of the predicted class would change with each sample
# of the WaveNet's input: the gradient times the input, without its sign, summed over seconds.
# *Grad-CAM* weights a late feature map of a backbone by what its features add to that score, and
# lays it over the image; the three crops are channels of one image and share the map.
#
# Such a map says what the score reacts to around this very recording. It does not say that the
# model is right, nor why, nor that it would be lost without these seconds. A column "random" says
# what a map that knows nothing of the pattern has on it. Where a share is near it, the map says
# nothing. Grad-CAM is coarse: it is taken where the feature map still has four columns, so that one
# place stands for 16 × 16 points of the released model's image. Its share is taken in time alone,
# on the crop of 50 s.

# %%
maps, prediction = {}, inference.predict(models, simulated_uv)
for name, map_of in {"EEG": saliency.eeg_saliency, "Grad-CAM": saliency.grad_cam}.items():
    try:
        maps[name] = map_of(models, simulated_uv)
    except ValueError as error:  # no model has a WaveNet, or a backbone
        print(f"No map: {error}")

# %%
table = pd.DataFrame({"predicted": [CLASSES[i] for i in prediction.argmax(axis=1)]}, CLASSES[:-1])
for name, found in maps.items():
    in_time = name == "Grad-CAM"
    found = saliency.per_second(found.sum(axis=1)) if in_time else found
    truth = cells.any(axis=1) if in_time else cells
    table[f"{name}: on the pattern"] = saliency.mass_on(found, truth)
    table[f"{name}: random"] = truth.reshape(len(truth), -1).mean(axis=1)
display(table.round(2))

# %% [markdown]
# Orange: saliency, the darker the larger. Green lines: derivations and seconds where the pattern
# has more than a quarter of its largest amplitude. The images fade where Grad-CAM is small.

# %%
image = next((m.inputs["image"] for m in models if "image" in m.inputs), None)
for i, (name, predicted) in enumerate(table["predicted"].items()):
    options = {"layout": "constrained", "width_ratios": [4, 1, 1, 1]}
    figure, (page, *crops) = plt.subplots(1, 4, figsize=(12, 3.4), **options)
    seen = maps["EEG"][i] if "EEG" in maps else None
    options = {"start_s": 0, "seconds": 50, "saliency": seen, "truth": cells[i]}
    title = f"simulated: {name}, predicted: {predicted}"
    plots.plot_eeg(simulated_uv[i], title, ax=page, **options)
    if "Grad-CAM" in maps:
        x = image.from_raw(simulated_uv[i])[0]
        plots.plot_image(x, "Grad-CAM", image, crops, cam=maps["Grad-CAM"][i])

# %% [markdown]
# ## Real recordings
#
# Up to here everything may have been simulated. These recordings are not: EEGs of 50 s with the
# votes of experts, from the public sample of SPaRCNet (Jing et al., *Neurology* 2023, ODC-By 1.0;
# `python -m hmsutils download samples` fetches them). None was used for training; only amplitude,
# slope and mains of twelve were once compared with the simulator's. Your own runs did not learn
# from these recordings either, so the released model predicts them, unless `RUNS` names others.

# %%
real = download.find_real_samples()
if real:
    windows = records.load_windows(real)
    real_models = models if RUNS else inference.load_models(inference.default_runs(real))
    prediction, quality = inference.predict_windows(real_models, real, windows, return_quality=True)
    enough = (quality["problem"] == "").to_numpy()  # the others have no prediction
    windows, prediction = windows[enough].reset_index(drop=True), prediction[enough]
    oof = evaluation.with_prediction(windows, prediction)
    print(f"{len(windows)} of {len(enough)} real recordings, {windows.n_votes.sum()} votes")
else:
    print("No real recordings; `python -m hmsutils download samples` fetches them")

# %%
if real:
    n_lines = -(-len(windows) // 2)
    options = {"layout": "constrained", "width_ratios": [3, 1.4] * 2}
    figure, axes = plt.subplots(n_lines, 4, figsize=(14, 3.3 * n_lines), **options)
    for (left, right), row, p in zip(axes.reshape(-1, 2), windows.itertuples(), prediction):
        title = f"{row.eeg_id}: {row.expert_consensus}, {row.n_votes} votes"
        plots.plot_eeg(records.read_eeg(real, row.eeg_id), title, ax=left)
        target = windows.loc[row.Index, list(TARGET_COLUMNS)].to_numpy(float)
        plots.plot_votes(target, {"model": p}, ax=right)

# %% [markdown]
# ## Compared with equal probabilities, and with SPaRCNet
#
# "uniform" gives every class 1/6. SPaRCNet was trained on thousands of real patients, perhaps these
# among them. The recordings are few, so the intervals are wide.

# %%
if real:
    uniform = oof.assign(**dict.fromkeys(PREDICTION_COLUMNS, 1 / 6))
    published = evaluation.with_prediction(oof, download.published_predictions(real, oof))
    everyone = {"uniform": uniform, "this model": oof, "SPaRCNet": published}
    real_table = evaluation.compare(everyone)
    display(real_table.round(3))

# %%
if real:
    shown = windows[["eeg_id", "expert_consensus", "n_votes"]].copy()
    shown["predicted"] = [CLASSES[i] for i in prediction.argmax(axis=1)]
    shown["KL"] = evaluation.kl_per_row(records.targets(windows), prediction).round(2)
    display(shown)

# %% [markdown]
# Results on simulated EEG show that the code works; results on so few recordings show little about
# real patients. Neither is clinical evidence, and nothing here is a medical device.
