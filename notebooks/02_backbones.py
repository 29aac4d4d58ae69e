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
# # 2 · Four backbones, fine-tuned
#
# EfficientNetV2-B2, ResNet50 V2, MobileNetV3-Large and DenseNet201, each with a softmax over the
# six classes, trained on soft labels and evaluated on patients that they were not trained on. One
# is trained step by step in ordinary Keras first, then all four by the package.
#
# **Reads** the windows and images of notebook 1 (computes what is missing). **Writes** one folder
# per model in `models/runs/`. **Takes** about 3 minutes on two cores in the demo profile; in the
# full one hours on a GPU. A session that ends before is no loss: run it again, on Kaggle with its
# own output attached, and it goes on. **Next:** 3 · WaveNet and concatenation.

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
SETTINGS = {}  # of config.TrainConfig, instead of the profile's: {"epochs": 3}
HOURS = None  # to stop in, epochs complete; None: no limit, on Kaggle 11
ALLOW_CPU = False  # True: also where a CPU needs days

# %%
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from hmsutils import augment, devices, evaluation, files, models, plots, records, training
from hmsutils.batches import Batches
from hmsutils.competition import CLASSES, kaggle_input
from hmsutils.config import RELEASED, profile, single_config
from hmsutils.runs import released_run

# %%
began, hours = time.time(), HOURS or (11 if kaggle_input().exists() else None)
competition = files.find_competition(DATA_DIR)
config = profile(competition, PROFILE, SETTINGS)

# %%
windows, arrays = training.prepare(competition, config)
configs = [single_config(config, name) for name in models.BACKBONES]
if not ALLOW_CPU:
    training.require_gpu(configs, windows, RUNS_DIR)
held_out = windows[windows.fold.isin(config.folds)]
print(
    f"{len(windows):,} windows of {windows.patient_id.nunique()} patients; held out, one fold "
    f"after the other: {len(held_out):,} windows of {held_out.patient_id.nunique()} patients"
)

# %% [markdown]
# ## The four backbones
#
# One table in `hmsutils.models` says where each comes from and how large it is. In the full profile
# they start from their ImageNet presets, and where those cannot be found the notebook stops and
# says how to attach them. Images arrive in [0, 1], and nothing rescales them a second time.

# %%
for name, spec in models.BACKBONES.items():
    print(
        f"{name:20s} {spec.params / 1e6:5.1f} M parameters, {spec.features} features, {spec.source}"
    )

# %% [markdown]
# ## Augmentation
#
# There are few windows and many weights, so every epoch shows each window changed in ways that do
# not change what an expert would say. Image and EEG of a window always get the same exchange of
# hemispheres, shift and gain; MixUp blends the soft labels as well. Gain and MixUp are off unless
# `SETTINGS` switches them on: in `benchmarks/ablation_competition.md` both raise the KL.

# %%
image, rng = config.inputs["image"], np.random.default_rng(1)
inputs, pair = {"image": image}, [windows.target_LPD.argmax(), windows.target_Seizure.argmax()]
batch = {"image": image.decode(arrays["image"][pair])}
first = np.array([1, 0])  # what is done to the first window of the batch, and to the second
gallery = {
    "as stored": batch,
    "hemispheres exchanged": augment.flip_hemispheres(batch, first == 1, inputs),
    "6 dB louder": augment.scale_amplitude(batch, 6.0 * first, inputs),
    "2 s later": augment.shift_time(batch, 2.0 * first, inputs),
    "chains dropped": augment.drop_channels(batch, 0.4, rng, inputs),
}

# %%
gallery["time masked"] = augment.mask_time(batch, 0.5, rng, inputs)
gallery["frequency masked"] = augment.mask_frequency(batch, 0.5, rng, inputs)
gallery["mixed with a seizure"] = augment.mixup(batch, np.eye(6)[[1, 0]], 5.0, rng, inputs)[0]
figure, axes = plt.subplots(2, 4, figsize=(12, 5), layout="constrained")
for ax, (title, changed) in zip(axes.flat, gallery.items()):
    ax.imshow(changed["image"][0, ..., 0], aspect="auto", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)
    ax.axis("off")

# %% [markdown]
# ## One backbone, in the open
#
# Fine-tuning is ordinary Keras; here it is step by step for MobileNetV3-Large. The **backbone**
# turns an image into a grid of feature vectors, and global average pooling takes their mean.
# Dropout sets some features to 0 during training. The **head** is one dense layer; its softmax
# turns the features into six probabilities that sum to 1. It computes in float32 even where the
# rest of the network computes in half precision.

# %%
keras.utils.set_random_seed(config.seed)
name, image = "mobilenet_v3_large", config.inputs["image"]
spec = models.BACKBONES[name]
backbone = spec.build(spec, image.shape, config.weights)
pixels = keras.Input(image.shape, name="image")
x = keras.layers.GlobalAveragePooling2D()(backbone(pixels))
x = keras.layers.Dropout(config.dropout)(x)
head = keras.layers.Dense(len(CLASSES), activation="softmax", dtype="float32", name="head")
network = keras.Model({"image": pixels}, head(x))
print(f"{image.shape} → {backbone.output.shape[1:]} → {spec.features} → {len(CLASSES)}")

# %% [markdown]
# In the full profile the backbone now has its ImageNet weights, and batch normalisation adapts its
# running mean and variance to the new images; a momentum of 0.9 lets it do so in a few hundred
# steps. The demo profile's few hundred windows are too few to start from there, so all weights are
# copied from the released model of the same network, which was trained on simulated EEG, and its
# batch statistics are kept. Both networks must then predict the same.

# %%
for layer in backbone.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.9
if config.init_from == RELEASED:
    released, _ = training.load_model(released_run(name), 0)
    network.set_weights(released.get_weights())
    some = {"image": image.decode(arrays["image"][:32])}
    difference = keras.ops.abs(network(some) - released(some))
    print(f"largest difference from the released model: {keras.ops.max(difference):.1e}")
if config.freeze_batch_norm:
    models.freeze_batch_norm(network)

# %% [markdown]
# `Batches` reads windows from the stored arrays. For training it shuffles and augments them anew in
# every epoch; for validation it gives those of the held-out patients in order, as they are.

# %%
fold = config.folds[0]
one_each = windows.get("is_representative", True)  # one row of every group of equal labels
target, images = records.targets(windows), {"image": arrays["image"]}
rows = np.flatnonzero(one_each & (windows.fold != fold))
held_out = np.flatnonzero(one_each & (windows.fold == fold))
options = {"shuffle": True, "augmentation": config.augmentation, "seed": config.seed}
batches = Batches(images, target, rows, inputs, batch_size=config.batch_size, **options)
validation = Batches(images, target, held_out, inputs, batch_size=64)
print(f"{len(rows):,} windows in {len(batches)} batches; validation: {len(held_out):,} windows")

# %% [markdown]
# `compile` says what is minimised, and how. The **loss** is the Kullback–Leibler divergence of the
# predicted probabilities from the vote shares, which is also the official metric. The optimizer is
# **AdamW**: Adam with weight decay, here not on biases and normalisation. Its learning rate rises
# from 0 in a tenth of the steps (warm-up), then falls back to 0 along half a cosine.

# %%
epochs = min(config.epochs, 2)
steps = epochs * len(batches)
warmup = max(1, round(config.warmup_fraction * steps))
schedule = keras.optimizers.schedules.CosineDecay(
    0.0, max(1, steps - warmup), warmup_target=config.learning_rate, warmup_steps=warmup
)
optimizer = keras.optimizers.AdamW(schedule, config.weight_decay, clipnorm=1.0)
optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
network.compile(optimizer, "kl_divergence", jit_compile=devices.use_xla())
optimizer.build(network.trainable_variables)  # else the first step makes the graph twice

# %% [markdown]
# `fit` shows all batches in every epoch. After each batch it changes the weights by one step of the
# optimizer; after each epoch it computes the loss on the held-out patients. `evaluate` gives the
# value before any step.

# %%
before = network.evaluate(validation, verbose=0)
history = network.fit(batches, validation_data=validation, epochs=epochs, verbose=2).history

# %%
figure, ax = plt.subplots(figsize=(4.5, 2.8), layout="constrained")
ax.plot(range(1, epochs + 1), history["loss"], "o-", label="training, augmented")
ax.plot(range(epochs + 1), [before, *history["val_loss"]], "o-", label="held-out patients")
ax.set(xlabel="epoch", ylabel="KL", xticks=range(epochs + 1))
ax.legend(frameon=False, fontsize=8)
plt.show()
prediction = network.predict(validation, verbose=0)
print(f"official KL, held out: {evaluation.kl_divergence(target[held_out], prediction):.3f}")

# %% [markdown]
# ## The same for all four, resumable, in folders
#
# `training.train` does the same for every config and fold, with a process for each GPU. It goes on
# after the last complete epoch if it was interrupted, stops in time if `HOURS` are given, and
# begins with the first fold of every model: so a session that ends early gives a table as well. It
# writes a folder per run with its config, weights, history and out-of-fold predictions, and a
# finished fold is not trained again.

# %%
session = {"n_jobs": devices.default_n_jobs(), "hours": hours, "since": began}
session |= {"runs_dir": RUNS_DIR, "allow_cpu": ALLOW_CPU}
runs = training.train(configs, windows, arrays, **session)

# %% [markdown]
# All epochs are trained, and the weights that are kept are those after the last one. To keep those
# of the epoch that is best on the held-out patients, and then to evaluate on the same patients,
# would look better than it is, by so much:

# %%
for run in runs:
    gain = run.description["optimism"]
    print(f"{run.name:20s} folds {run.folds}; the best epoch's KL is {gain:.3f} lower")
if runs:
    figure = plots.plot_history({run.name: run.history() for run in runs})

# %% [markdown]
# ## Results on held-out patients
#
# The official metric (KL, lower is better) and accuracy against the experts' consensus, with 95 %
# intervals by bootstrap over **patients**: rows of one patient depend on each other, and an
# interval that ignores it is too narrow. The first two rows are baselines that use no EEG. Where
# the time was up, the table shows the folds that every model in it has.

# %%
if runs:
    table = evaluation.results(runs)
    if competition.kind != "simulated":  # the notebook this one re-creates: one fold, hard labels
        published = {name: spec.published_accuracy for name, spec in models.BACKBONES.items()}
        table["published accuracy"] = table.index.map(published)
    display(table.round(3))
else:
    print("No fold is done yet, so that there is nothing to show. Run this notebook again.")

# %%
if runs:
    figure = plots.plot_comparison(table)

# %% [markdown]
# The table mixes two populations of raters. Separately, by the number of votes:

# %%
evaluation.by_stratum(runs).round(3) if runs else None

# %% [markdown]
# ## Errors of the best backbone
#
# Its confusion matrix, its calibration, and its scores by class. Experts themselves agree with the
# consensus in about 65 % of windows.

# %%
if runs:
    best = evaluation.best_run(runs)
    oof = best.oof()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.8), layout="constrained")
    plots.plot_confusion(evaluation.confusion(oof), best.name, ax=left)
    plots.plot_reliability({best.name: evaluation.reliability(oof)}, ax=right)
    display(evaluation.per_class(oof).round(3))

# %% [markdown]
# The backbones see images of the EEG. The next notebook adds a network that sees its signals.
