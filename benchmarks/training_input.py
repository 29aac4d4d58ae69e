"""Can `fit` be fed fast enough? Augmented batches of 32 images of 400 × 300.

    python benchmarks/training_input.py      # some minutes, one core

The reference is our own re-creation of the KerasCV starter: one file per window, decoded, logged,
normalised and tiled in tf.data, then KerasCV's MixUp and two cutouts, each for half of the batches.
Beside it a memory-mapped store through `Batches`, without augmentation, with the starter's
(MixUp, one time mask, one frequency mask), and with all that the full profile does. Then where the
time of one batch goes. Last, a step of `fit` on MobileNetV3-Large fed by `Batches` against the bare
step on one constant batch. All in processor time of one core, which other programs hardly change.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras_cv
import numpy as np
import tensorflow as tf
from timing import compare, machine, markdown

from hmsutils.augment import NO_AUGMENTATION, STEPS, AugmentConfig, BatchPlan, augment
from hmsutils.batches import Batches
from hmsutils.config import PROFILES
from hmsutils.models import ModelConfig, build_backbone
from hmsutils.representations import Image

N, BATCH, IMAGE = 512, 32, Image(n_mels=100, n_frames=300)
FULL = PROFILES["full"].augmentation


def starter(folder: Path, target: np.ndarray) -> tf.data.Dataset:
    """Files → augmented batches, in tf.data and KerasCV alone."""
    mixup = keras_cv.layers.MixUp(alpha=2.0)
    cutouts = [
        keras_cv.layers.RandomCutout(height_factor=h, width_factor=w)
        for h, w in ((1.0, (0.06, 0.1)), ((0.06, 0.1), 1.0))
    ]

    def read(path, label):
        x = tf.reshape(tf.io.decode_raw(tf.io.read_file(path), tf.float32), IMAGE.shape[:2])
        x = tf.math.log(tf.clip_by_value(x, np.exp(-4.0), np.exp(8.0)))
        x = (x - tf.math.reduce_mean(x)) / (tf.math.reduce_std(x) + 1e-6)
        return tf.tile(x[..., None], [1, 1, 3]), label

    def augment(images, labels):
        batch = {"images": images, "labels": labels}
        for layer in (mixup, *cutouts):
            if tf.random.uniform([]) > 0.5:
                batch = layer(batch, training=True)
        return batch["images"], batch["labels"]

    paths = [str(folder / f"{i}.raw") for i in range(N)]
    data = tf.data.Dataset.from_tensor_slices((paths, target))
    data = data.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True)
    return data.map(augment, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def consume(data: Batches) -> None:
    """An epoch of batches, one at a time, as `fit` takes them."""
    for i in range(len(data)):
        data[i]


def stages(stored: np.ndarray, target: np.ndarray) -> dict[str, Callable[[], object]]:
    """What a batch of the full profile's augmentation is made of, each stage on its own."""
    memory = np.empty((BATCH, *IMAGE.shape), np.float32)
    starts = itertools.cycle(range(0, N, BATCH))

    def plan() -> tuple[dict[str, BatchPlan], np.ndarray, np.random.Generator]:
        start = next(starts)
        rows = np.arange(start, start + BATCH)
        plans = {"image": BatchPlan.of(stored, IMAGE, rows)}
        return plans, target[:BATCH], np.random.default_rng(start)

    def make(config: AugmentConfig) -> None:
        plans, labels, rng = plan()
        augment(plans, labels, config, rng)

    def draw(config: AugmentConfig) -> None:
        plans, labels, rng = plan()
        for name, step in STEPS.items():
            if getattr(config, name):
                step(plans, labels, getattr(config, name), rng)

    return {
        "all of it": lambda: make(FULL),
        "with MixUp": lambda: make(replace(FULL, mixup=0.2)),
        "no step: bytes → floats": lambda: make(NO_AUGMENTATION),
        "only writing so many floats, in new memory": lambda: np.full(memory.shape, 0.5, "float32"),
        "the same in memory used before": lambda: memory.fill(0.5),
        "only drawing the numbers": lambda: draw(FULL),
    }


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core for all
    rng = np.random.default_rng(0)
    target = rng.dirichlet(np.ones(6), N).astype(np.float32)
    masks = replace(NO_AUGMENTATION, mixup=2.0, time_mask=0.1, frequency_mask=0.1)
    configs = {
        "`Batches`, no augmentation": NO_AUGMENTATION,
        "`Batches`, MixUp and two masks": masks,
        "`Batches`, the full profile's": FULL,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = (N, *IMAGE.shape)
        stored = np.lib.format.open_memmap(folder / "image.npy", "w+", IMAGE.stored_as, shape)
        for i in range(N):
            x = rng.lognormal(0, 2, IMAGE.shape[:2]).astype(np.float32)
            (folder / f"{i}.raw").write_bytes(x.tobytes())
            stored[i] = IMAGE.encode(np.clip(x / 60, 0, 1))[..., None]
        stored.flush()
        arrays = {"image": np.load(folder / "image.npy", mmap_mode="r")}
        options = {"inputs": {"image": IMAGE}, "batch_size": BATCH, "shuffle": True}
        reference = starter(folder, target)
        variants = {"KerasCV starter": lambda: [None for _ in reference]}
        for name, config in configs.items():
            data = Batches(arrays, target, np.arange(N), augmentation=config, **options)
            variants[name] = lambda data=data: consume(data)
        table = compare(variants, rounds=5, clock=time.process_time)
        table.insert(0, "windows/s", 1e3 * N / table["ms"])
        parts = compare(stages(arrays["image"], target), rounds=9, clock=time.process_time)
        few = np.arange(4 * BATCH)
        overhead = fit_overhead(Batches(arrays, target, few, augmentation=FULL, **options))
    text = f"`python benchmarks/training_input.py` on {machine()}\n\n"
    text += f"### {N} windows in batches of {BATCH}\n\n{markdown(table)}\n\n"
    text += "### One batch of the full profile's\n\n"
    text += "The first row is the whole batch; the last ones are single parts of the work.\n\n"
    text += f"{markdown(parts)}\n\n"
    text += f"A step of `fit` takes {overhead:+.1%} of time, compared with a step on a batch that "
    text += "stays the same; 0 % would be best: reading and augmenting would cost nothing.\n"
    print(text)


def fit_overhead(batches: Batches, rounds: int = 3) -> float:
    """How much more an epoch of `fit` costs than as many steps on a constant batch."""
    config = ModelConfig(inputs={"image": IMAGE})
    model = build_backbone("mobilenet_v3_large", config, weights=None)
    model.compile("adamw", "kl_divergence", jit_compile=False)
    inputs, target = batches[0]
    constant = tf.data.Dataset.from_tensors((inputs, target)).cache().repeat(len(batches))
    model.fit(constant.take(2), verbose=0)
    shares = []
    for _ in range(rounds):
        times = []
        for data in (constant, batches):
            began = time.process_time()
            model.fit(data, verbose=0, shuffle=False)
            times.append(time.process_time() - began)
        shares.append(times[1] / times[0] - 1)
    return float(np.median(shares))


if __name__ == "__main__":
    main()
