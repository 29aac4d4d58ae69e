"""How long the full profile would take: one measured step of every model, times how often it is
taken; and its arithmetic, counted, at the speed of a GPU.

    python benchmarks/hours.py                  # the full profile, four steps of each model
    python benchmarks/hours.py --windows 25000 --tflops 10

An epoch shows one window of every label group of the competition's 17,089 EEGs; `--windows` is the
number of groups where yours is known. What is measured: `train_on_batch` and `predict_on_batch` on
constant arrays, medians, after one step that builds the graph. Early stopping is not counted on.
"GPU hours" are no measurement: operations that TensorFlow counts in the graph, three times as many
for a training step, at `--tflops` sustained.
"""

import argparse
import statistics
import time

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from hmsutils import training
from hmsutils.config import PROFILES, TrainConfig, concat_config, single_config
from hmsutils.models import BACKBONES, WAVENET, build_model

MANY_VOTES = 0.374  # share of the competition's rows with ten votes or more


def seconds(call, repeats: int) -> float:
    """Median time of a call after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def gflop(model: keras.Model) -> float:
    """Floating-point operations, in 10⁹, of predicting one window."""
    inputs = {x.name: tf.TensorSpec((1, *x.shape[1:]), "float32") for x in model.inputs}
    graph = tf.function(lambda batch: model(batch)).get_concrete_function(inputs).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation() | {"output": "none"}
    return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops / 1e9


def hours(config: TrainConfig, n_windows: int, repeats: int, tflops: float) -> dict[str, float]:
    """Measured seconds of a step and of a prediction, and the hours of all folds and stages."""
    model = build_model(config)
    model.compile(keras.optimizers.AdamW(), "kl_divergence", jit_compile=training.use_xla())
    rng, size = np.random.default_rng(0), config.batch_size
    batch = {x.name: rng.normal(size=(size, *x.shape[1:])).astype("float32") for x in model.inputs}
    target = np.full((size, 6), 1 / 6, "float32")
    step_s = seconds(lambda: model.train_on_batch(batch, target), repeats)
    predict_s = seconds(lambda: model.predict_on_batch(batch), repeats)
    share = 1 / config.n_folds
    learned = config.epochs * (1 - share) * n_windows
    evaluated = config.epochs * share * n_windows
    if config.refine_votes:
        more = max(1, config.epochs // 3)
        learned += more * (1 - share) * n_windows * MANY_VOTES
        evaluated += more * share * n_windows
    total = len(config.folds) * (learned * step_s + evaluated * predict_s) / size
    operations = gflop(model)
    gpu_s = len(config.folds) * (3 * learned + evaluated) * operations / (1000 * tflops)
    keras.utils.clear_session()
    return {
        "GFLOP": operations,
        "training, windows/s": size / step_s,
        "prediction, windows/s": size / predict_s,
        "hours": total / 3600,
        "GPU hours": gpu_s / 3600,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=25_000)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tflops", type=float, default=10.0)
    args = parser.parse_args()
    config, rows = PROFILES["full"], {}
    singles = [single_config(config, name) for name in (*BACKBONES, WAVENET)]
    concat = [concat_config(config, (name, WAVENET), ()) for name in BACKBONES]
    for model in singles + concat:
        rows[model.name] = hours(model, args.windows, args.steps, args.tflops)
        print(f"{model.name}: {rows[model.name]['hours']:.1f} h", flush=True)
    table = pd.DataFrame(rows).T
    together = ["hours", "GPU hours"]
    table.loc["together"] = table[together].sum()
    shape = config.inputs["image"].shape
    print(f"\n{args.windows:,} windows, {len(config.folds)} folds, images of {shape}")
    print(table.round(1).to_string(na_rep=""))


if __name__ == "__main__":
    main()
