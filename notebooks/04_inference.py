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
# *Inference* is the use of a trained model on new EEG. This notebook predicts the competition's
# test EEGs and writes `submission.csv`, checked as the competition checks it. Then it draws what
# the model looked at, and compares the model with experts on real recordings, where you have them.
# Notebook 1 explains the six classes, notebook 2 KL, notebook 3 the networks.
#
# **Reads** `test.csv`, `test_eegs/` and trained runs. These are your own in `models/runs`, if they
# learned from this competition's EEGs: notebook 3's blend, else the best run. On Kaggle they are
# the attached ones. Else it is the released model. **Writes** `submission.csv`. **Takes** about
# 1 minute on two cores.

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
SEED = 0  # of the simulated recordings that the maps are drawn for

# %%
# %matplotlib inline
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
# A submission has a row for each test EEG: six probabilities, one for each class. The first version
# uses no EEG: every row is the *prior*, the mean of the experts' votes in the windows that the runs
# learned from. If anything fails later, this file is there and valid.

# %%
if has_test := records.table_path(competition, "test").exists():
    submission = inference.prior_submission(chosen, competition)
    write_csv(SUBMISSION, submission)
    print(f"{SUBMISSION}: {len(submission)} rows, each of them the prior")
else:
    print(f"{competition.root} has no test.csv, so that there is nothing to submit")

# %% [markdown]
# Now the models' predictions replace it. Every EEG is repaired, filtered and turned into image and
# signals by the code that did it for training. The competition's own 10-minute spectrograms are
# read if a model was trained with them; a missing one does no harm. Every prediction is a mean over
# the folds of a run, and over the EEG as it is and the EEG with its left and right sides exchanged.
# An EEG that cannot be read, or is too damaged to predict, keeps the prior and is named below.

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
# In a real recording nobody knows what exactly the model should look at. In a simulated one it is
# known where the pattern is. Here is one recording of each class but Other, which has no pattern.
# They come from the simulated hospital `SHIFTED`, whose waves, background and amplifiers differ
# from those that the released model learned from. Each is the first one, from `SEED` on, whose
# class gets more than .8 of the expected votes.

# %%
shown, seed = {}, SEED
while len(shown) < len(CLASSES) - 1:
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
# Two kinds of maps:
#
# - **Gradient saliency**, for the WaveNet. It asks: if one sample of the signal changed a little,
#   how much would the score of the predicted class change? That is the gradient. It is multiplied
#   by the sample, its sign is removed, and it is summed over each second of each derivation.
# - **Grad-CAM**, for the backbone. It takes a late layer of the network, whose features are small
#   maps, weights each feature by what it adds to the score of the class, and lays the sum over the
#   image. The image's three crops (50, 25 and 10 s) are channels of one image and share the map.
#
# A map says what the score reacts to in this one recording. It does not say that the model is
# right, nor why, nor that it needs these seconds. Grad-CAM is coarse: one value covers 16 × 16
# points of the released model's image.

# %%
maps, prediction = {}, inference.predict(models, simulated_uv)
for name, map_of in {"EEG": saliency.eeg_saliency, "Grad-CAM": saliency.grad_cam}.items():
    try:
        maps[name] = map_of(models, simulated_uv)
    except ValueError as error:  # no model has a WaveNet, or a backbone
        print(f"No map: {error}")

# %% [markdown]
# "on the pattern" is the share of a map that lies where the pattern is; "random" is the share that
# a map would have that knows nothing of it. The larger their ratio, the more a map says; near 1 it
# says nothing. Grad-CAM is compared in time alone, on the crop of 50 s. Five recordings prove
# nothing; `benchmarks/saliency.md` has the means over many.

# %%
guesses = [CLASSES[i] for i in prediction.argmax(axis=1)]
table = pd.DataFrame({"predicted": guesses, "right": guesses == np.array(CLASSES[:-1])})
table.index = pd.Index(CLASSES[:-1], name="simulated")
for name, found in maps.items():
    in_time = name == "Grad-CAM"
    found = saliency.per_second(found.sum(axis=1)) if in_time else found
    truth = cells.any(axis=1) if in_time else cells
    table[f"{name}: on the pattern"] = on = saliency.mass_on(found, truth)
    table[f"{name}: random"] = random = truth.reshape(len(truth), -1).mean(axis=1)
    table[f"{name}: ratio"] = on / random
display(table.round(2))

# %% [markdown]
# Orange: gradient saliency. Green lines under the traces: derivations and seconds where the pattern
# has more than a quarter of its largest amplitude. Right: the image's crops, one below the other;
# they turn white where Grad-CAM is small. Above each figure stands whether the model is right.


# %%
def mark(is_right: bool) -> dict:
    """The first words of a title and their colour."""
    label, colour = ("✓ right", "#1a7a3c") if is_right else ("✗ wrong", "#c0271d")
    return {"label": label, "color": colour}


# %%
for i, (name, predicted) in enumerate(table["predicted"].items()):
    looked = {"saliency": maps["EEG"][i]} if "EEG" in maps else {}
    image = inference.image_of(models) if "Grad-CAM" in maps else None
    images = [(image.from_raw(simulated_uv[i])[0], image)] if image else []
    looked |= {"cam": maps["Grad-CAM"][i]} if image else {}
    figure = plots.plot_page(simulated_uv[i], None, *images, truth=cells[i], **looked)
    says = mark(name == predicted)
    figure.axes[0].set_title(f"{says['label']}: {predicted} (simulated: {name})", c=says["color"])
    figure.set_dpi(80)
    display(figure)

# %% [markdown]
# ## Real recordings
#
# Up to here everything may have been simulated. These recordings are real: EEGs of 50 s with the
# votes of experts, published with SPaRCNet (Jing et al., *Neurology* 2023, ODC-By 1.0), a network
# that was trained on real EEG.
#
# **Which recordings.** Four of each class are published, numbered 1 to 4; the last digit of an id
# is this number. `python -m hmsutils download samples` fetches all 24. Only the twelve with odd
# numbers were at hand when this project was made. README's table, and the outputs stored in this
# notebook, are about these twelve. With all 24 your numbers differ, because the other twelve are
# other EEGs with other votes. The table below then has a row for the odd numbers alone: compare
# this one. Numbers also differ if another model predicts (`RUNS`, or a later release).
#
# None of these recordings was used for training. Only amplitude, slope of the spectrum and hum of
# the mains were once compared with the simulator's. Your own runs did not learn from them either,
# so the released model predicts them, unless `RUNS` names others.

# %%
real = download.find_real_samples()
if real:
    windows = records.load_windows(real)
    real_models = models if RUNS else inference.load_models(inference.default_runs(real))
    prediction, quality = inference.predict_windows(real_models, real, windows, return_quality=True)
    enough = (quality["problem"] == "").to_numpy()  # the others have no prediction
    windows, prediction = windows[enough].reset_index(drop=True), prediction[enough]
    oof = evaluation.with_prediction(windows, prediction)
    odd = oof["eeg_id"] % 2 == 1
else:
    print("No real recordings; `python -m hmsutils download samples` fetches them")

# %%
if real:
    print(f"{len(windows)} of {len(download.SAMPLE_IDS)} recordings, {odd.sum()} odd-numbered,")
    print(f"with {windows.n_votes.min()} to {windows.n_votes.max()} votes each")
    if not enough.all():
        print(f"{(~enough).sum()} more hold too little EEG to predict")

# %% [markdown]
# ## Compared with equal probabilities, and with SPaRCNet
#
# "uniform" gives every class 1/6. SPaRCNet was trained on thousands of real patients, perhaps these
# among them. A recording counts as right if the model's most probable class is the experts' most
# voted one (`accuracy`: the share of these). The recordings are few, so the intervals are wide.

# %%
if real:
    uniform = oof.assign(**dict.fromkeys(PREDICTION_COLUMNS, 1 / 6))
    published = evaluation.with_prediction(oof, download.published_predictions(real, oof))
    everyone = {"uniform": uniform, "this model": oof, "SPaRCNet": published}
    real_table = evaluation.compare(everyone)
    if 0 < odd.sum() < len(oof):
        real_table.loc["this model, odd-numbered alone"] = evaluation.score(oof[odd]).loc["all"]
    display(real_table.astype({"rows": int}).round(3))

# %% [markdown]
# One recording after the other: the 10 s that experts labelled, their votes, and the model's
# probabilities. ✓: the most probable class is the experts'. A model can be right with a high KL,
# where it is too sure or too unsure, and wrong with a low one, where experts disagree too.

# %%
if real:
    n_lines = -(-len(windows) // 2)
    options = {"layout": "constrained", "width_ratios": [2.5, 1.5] * 2, "dpi": 85}
    figure, axes = plt.subplots(n_lines, 4, figsize=(13, 3.4 * n_lines), **options)
    kl = evaluation.kl_per_row(records.targets(windows), prediction)
    for (left, right), row, p in zip(axes.reshape(-1, 2), windows.itertuples(), prediction):
        title = f"{row.eeg_id}: {row.expert_consensus}, {row.n_votes} votes"
        plots.plot_eeg(records.read_eeg(real, row.eeg_id), title, ax=left)
        target = windows.loc[row.Index, list(TARGET_COLUMNS)].to_numpy(float)
        plots.plot_votes(target, {"model": p}, ax=right)
        right.set_title(f"KL {kl[row.Index]:.2f}", loc="right", fontsize=9)
        right.set_title(loc="left", **mark(p.argmax() == target.argmax()))

# %%
if real:
    shown = windows[["eeg_id", "expert_consensus", "n_votes"]].copy()
    shown["predicted"] = [CLASSES[i] for i in prediction.argmax(axis=1)]
    shown["right"] = np.where(shown["predicted"] == shown["expert_consensus"], "✓", "✗")
    display(shown.assign(KL=kl.round(2)))

# %% [markdown]
# Results on simulated EEG show that the code works; results on so few recordings show little about
# real patients. Neither is clinical evidence, and nothing here is a medical device.
#
# ## Exercises
#
# Each changes one parameter in the cell at the top. Run everything again.
#
# 1. `SEED = 100`. Five other recordings. Expect the models to be right for most of them, and ratios
#    that differ from those above: they vary from recording to recording, so that a single map
#    proves nothing.
# 2. `RUNS = ["../models/released/wavenet"]`. The WaveNet alone predicts. Expect `No map` instead of
#    Grad-CAM, as it sees no image, and similar but not equal probabilities in the submission.
# 3. `DATA_DIR = "../data/other"`, after `hmsutils simulate --patients 8 --seed 1 --out data/other`
#    in a terminal. Other patients, so a submission with other ids. Expect that "Models:" names the
#    released model: your own runs did not learn from these EEGs.
