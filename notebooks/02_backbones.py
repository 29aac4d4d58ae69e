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
# A **backbone** is a network that was trained on photographs and turns an image into numbers, its
# **features**. Here four of them (EfficientNetV2-B2, ResNet50 V2, MobileNetV3-Large, DenseNet201)
# get the images of notebook 1, and one more layer turns the features into six probabilities. To
# train all of it on EEG is called **fine-tuning**. One backbone is trained step by step in ordinary
# Keras first, then all four by the package. Each is evaluated on patients that it was not trained
# on.
#
# **Reads** the windows and images of notebook 1 (computes what is missing). **Writes** one folder
# per model in `models/runs/`. **Takes** about 3 minutes on two cores in the demo profile; in the
# full one hours on a GPU. If a session ends before, run the notebook again, on Kaggle with its own
# output attached: it goes on after the last complete epoch. **Next:** 3 · WaveNet and
# concatenation.

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
# they start from weights that were trained on ImageNet, a million photographs; where those cannot
# be found, the notebook stops and says how to attach them. The images have values from 0 to 1, and
# no layer of the network scales them again.

# %%
for name, spec in models.BACKBONES.items():
    print(f"{name:20s} {spec.params / 1e6:5.1f} M weights, {spec.features} features, {spec.source}")

# %% [markdown]
# ## What is minimised: the KL divergence
#
# The **Kullback–Leibler divergence** (KL) says how far predicted probabilities are from the shares
# of the votes. For one window it is the sum over the classes of
#
# share of votes × log (share of votes / predicted probability),
#
# where classes without votes count 0. It is 0 where the prediction equals the shares, and larger
# the less probability the classes that got votes have. Its unit is the nat, since log is the
# natural logarithm. The competition's score is the mean over all windows: lower is better. Three
# predictions for the same votes of 17 experts:

# %%
votes = np.array([0, 15, 2, 0, 0, 0]) / 17
answers = {
    "perfect": votes,
    "half right": np.array([0.05, 0.52, 0.10, 0.03, 0.15, 0.15]),
    "knows nothing": np.full(len(CLASSES), 1 / len(CLASSES)),
}
figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), sharey=True, layout="constrained")
for ax, (title, answer) in zip(axes, answers.items()):
    kl = evaluation.kl_divergence([votes], [answer])
    plots.plot_votes(votes, {"prediction": answer}, f"{title}: KL {kl:.2f}", ax=ax)

# %% [markdown]
# ## Augmentation
#
# There are few windows and many weights. Therefore every epoch shows each window changed, in ways
# that do not change what an expert would vote (**augmentation**). Image and EEG of a window always
# get the same exchange of hemispheres, the same shift in time and the same change of amplitude
# (gain). MixUp averages two windows, and their votes too. Gain and MixUp are off unless `SETTINGS`
# switches them on: in `benchmarks/ablation_competition.md`, both make the KL higher. The figure
# shows the first crop of one image, of 50 s. Dark bands are what is removed.

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

# %%
style = {"aspect": "auto", "vmin": 0, "vmax": 1, "extent": (0, 50, 4, 0)}
options = {"figsize": (11, 5), "sharex": True, "sharey": True, "layout": "constrained"}
figure, axes = plt.subplots(2, 4, **options)
for ax, (title, changed) in zip(axes.flat, gallery.items()):
    mesh = ax.imshow(changed["image"][0, ..., 0], **style)
    ax.set_title(title, fontsize=10)
axes[0, 0].set_yticks(np.arange(4) + 0.5, ("LL", "LP", "RP", "RL"))
figure.supxlabel("time (s)", fontsize=10)
figure.supylabel("chain, each 0–20 Hz", fontsize=10)
low, high = image.decibels
figure.colorbar(mesh, ax=axes, label=f"0: {low:g} dB … 1: {high:g} dB")
plt.show()

# %% [markdown]
# ## One backbone, step by step
#
# Fine-tuning is ordinary Keras. Here it is for MobileNetV3-Large. The **backbone** turns an image
# into a grid of feature vectors, one for each place of the image; **pooling** takes their mean over
# all places. Backbone and pooling together are the **tower**. **Dropout** sets some features to 0,
# others in each step of the training, so that the network does not rely on a few. The **head** is
# one dense layer: each class gets a weighted sum of the features, and **softmax** turns the six
# sums into probabilities that sum to 1. The head computes in float32, also where the rest computes
# in half precision.

# %%
keras.utils.set_random_seed(config.seed)
name, image = "mobilenet_v3_large", config.inputs["image"]
spec = models.BACKBONES[name]
backbone = spec.build(spec, image.shape, config.weights)
pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
tower = keras.Model(backbone.inputs, pooled, name=name)
pixels = keras.Input(image.shape, name="image")
x = keras.layers.Dropout(config.dropout)(tower(pixels))
head = keras.layers.Dense(len(CLASSES), activation="softmax", dtype="float32", name="head")
network = keras.Model({"image": pixels}, head(x))
print(f"{image.shape} → {backbone.output.shape[1:]} → {spec.features} → {len(CLASSES)}")

# %%
figure = plots.plot_network(network)

# %% [markdown]
# In the full profile the backbone now has its ImageNet weights. Its batch normalisation layers keep
# a running mean and variance of what they see; with a momentum of 0.9 these follow the new images
# within a few hundred steps. The few hundred windows of the demo profile are too few to start from
# photographs. There, all weights are copied from the released model of the same network, which was
# trained on simulated EEG, and the running means and variances are kept. As a check, both networks
# must predict the same.

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
# `Batches` reads windows from the stored arrays. For training, it shuffles them in every epoch and
# augments them; for validation, it gives the windows of the **held-out** patients, who are not
# trained on, in their order and unchanged.

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
# `compile` says what is minimised, and how. The **loss** is the KL, which is also the competition's
# metric. The optimizer is **AdamW**: Adam, with weight decay, which pulls every weight towards 0 a
# little in each step (here not those of biases and normalisation). Its learning rate rises from 0
# in a tenth of the steps (warm-up), then falls back to 0 like half a cosine wave.

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
figure, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
style = {"color": plots.EXPERTS, "ls": "--", "lw": 2, "label": "training, mean of the epoch"}
ax.stairs(history["loss"], range(epochs + 1), baseline=None, **style)
held_out_kl = [before, *history["val_loss"]]
ax.plot(range(epochs + 1), held_out_kl, "o-", color=plots.MODEL, label="held-out patients")
ax.set(xlabel="epochs done", ylabel="KL (nats), ↓ better", xticks=range(epochs + 1))
ax.legend(frameon=False)
plt.show()
prediction = network.predict(validation, verbose=0)
print(f"official KL, held out: {evaluation.kl_divergence(target[held_out], prediction):.3f}")

# %% [markdown]
# ## The same for all four
#
# `training.train` does the same for every network and fold, one process for each GPU. It begins
# with the first fold of every network, so that a session that ends early gives a table as well. It
# stops in time if `HOURS` are given, and goes on after the last complete epoch when it is called
# again. Each run is a folder with its settings, weights, history, and predictions for the held-out
# windows ("out of fold"). A finished fold is not trained again.

# %%
session = {"n_jobs": devices.default_n_jobs(), "hours": hours, "since": began}
session |= {"runs_dir": RUNS_DIR, "allow_cpu": ALLOW_CPU}
runs = training.train(configs, windows, arrays, **session)

# %% [markdown]
# The weights that are kept are those after the last epoch. Many notebooks keep those of the epoch
# that is best on the held-out patients, and then report the KL on the same patients. That looks
# better than it is. By how much, in KL:

# %%
for run in runs:
    gain = run.description["optimism"]
    print(f"{run.name:20s} folds {run.folds}: the best epoch's KL is lower by {gain:.3f}")
if runs:
    figure = plots.plot_history({run.name: run.history() for run in runs})

# %% [markdown]
# ## Results on held-out patients
#
# KL (lower is better) and **accuracy** (higher is better): the share of windows whose most probable
# class is the one that most experts voted for. The columns *low* and *high* are the ends of a 95 %
# interval, by bootstrap over **patients**: patients, not windows, are drawn again and again, since
# windows of one patient are alike, and an interval that ignores this is too narrow.
#
# The first two rows use no EEG. *uniform* gives every class 1/6; a window counts 1/6 of a hit, as
# if one of its six equally probable classes were drawn by lot. *prior mean* predicts the mean vote
# shares of the training patients for every window. If the time was up, the table has the folds that
# all of its models have finished.

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
# The table mixes windows with few and with many votes. Separately, by the number of votes; compare
# models within a group only, since the groups differ in how far the experts agree:

# %%
evaluation.by_stratum(runs).round(3) if runs else None

# %% [markdown]
# ## Errors of the best backbone
#
# Left, the **confusion matrix**: each row holds the windows of one class of the experts, and the
# columns say which class the model found most probable. Numbers are windows, and the colour is the
# share of the row. Right, the **reliability curve**: all predicted probabilities, of all classes,
# are sorted into ten bins. Each point compares the mean probability in a bin with the mean share of
# votes that those classes really got; larger points stand for more predictions. On the diagonal the
# model is right on average. Above it, the classes got more votes than predicted (too cautious),
# below it fewer (too sure). Small points vary by chance.

# %%
if runs:
    best = evaluation.best_run(runs)
    oof = best.oof()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    mesh = plots.plot_confusion(evaluation.confusion(oof), best.name, ax=left).axes[0].images[0]
    figure.colorbar(mesh, ax=left, label="share of the row", shrink=0.8)
    plots.plot_reliability({best.name: evaluation.reliability(oof)}, ax=right)
    plt.show()

# %% [markdown]
# The same in numbers: the mean distance of the points from the diagonal, each weighted by its
# number of predictions; then the probabilities over 0.5, which are too high on average if the mean
# share of votes is below their mean.

# %%
if runs:
    points = evaluation.reliability(oof)
    distance = points.votes - points.prediction
    print(f"distance from the diagonal: {np.average(abs(distance), weights=points['count']):.3f}")
    if len(high := points[points.prediction > 0.5]):
        got, said = (np.average(high[k], weights=high["count"]) for k in ("votes", "prediction"))
        print(f"probabilities over 0.5: mean {said:.2f}; mean share of votes there: {got:.2f}")

# %% [markdown]
# By class: *recall* is the share of the experts' windows of a class that the model found,
# *precision* the share of the model's windows of a class that the experts agree with.

# %%
evaluation.per_class(oof).round(3) if runs else None

# %% [markdown]
# The backbones see images of the EEG. The next notebook adds a network that sees its signals.
#
# ## Exercises
#
# Change one parameter at the top and run the notebook again. Runs with other settings get folders
# of their own, so that nothing is lost.
#
# 1. `SETTINGS = {"init_from": ()}` (demo profile): the networks start from random weights instead
#    of those trained on simulated EEG. Two epochs of a few hundred windows are not enough: expect a
#    KL near that of *prior mean*.
# 2. `SETTINGS = {"learning_rate": 0.01}` (demo profile): steps a hundred times as large. What the
#    networks knew is overwritten in the first epoch: expect a much higher KL on held-out patients.
# 3. `SETTINGS = {"epochs": 6}`: three times as long in the demo profile. Expect the KL on training
#    batches to fall further than that on held-out patients: the networks learn these windows by
#    heart.
