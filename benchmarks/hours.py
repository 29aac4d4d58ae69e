"""How long the full profile would take on two T4s: its arithmetic, counted, at an assumed speed.

    python benchmarks/hours.py                       # the full profile, 25,000 windows
    python benchmarks/hours.py --windows 20000 --cards 1 --tflops 5 --compile-minutes 5

An epoch shows one window of every label group of the competition's 17,089 EEGs; `--windows` is the
number of groups where yours is known. Operations are those that TensorFlow counts in the graph of a
prediction; a training step takes three times as many. The speeds are no measurement: a T4 has 65
TFLOP/s of half-precision products by its data sheet, of which ordinary convolutions are taken to
reach 10, depthwise ones and the WaveNet's narrow ones 2. Every fold and stage is compiled anew,
which is taken to last 3 minutes. gpu.py measures a card at hand.
"""

import argparse

import keras
import pandas as pd
import tensorflow as tf

from hmsutils.config import PROFILES, TrainConfig, concat_config, single_config
from hmsutils.models import BACKBONES, WAVENET, build_model

MANY_VOTES = 0.374  # share of the competition's rows with ten votes or more
DEPTHWISE = ("efficientnetv2_b2", "mobilenet_v3_large", WAVENET)
SESSION_H, WEEK_H = 11, 30  # of Kaggle: what is used of a session of 12 h, and a week's hours


def gflop(tower: str, config: TrainConfig) -> float:
    """Floating-point operations, in 10⁹, of predicting one window."""
    model = build_model(single_config(config, tower))
    inputs = {x.name: tf.TensorSpec((1, *x.shape[1:]), "float32") for x in model.inputs}
    graph = tf.function(lambda batch: model(batch)).get_concrete_function(inputs).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation() | {"output": "none"}
    counted = tf.compat.v1.profiler.profile(graph, options=options).total_float_ops / 1e9
    keras.utils.clear_session()
    return counted


def windows_shown(config: TrainConfig, n_windows: int) -> tuple[float, float]:
    """How many windows all folds and stages of a run train on, and predict."""
    more = max(1, config.epochs // 3) if config.refine_votes else 0
    predicted = len(config.folds) * (config.epochs + more) * n_windows / config.n_folds
    trained = len(config.folds) * (config.epochs + more * MANY_VOTES) * n_windows
    return trained * (1 - 1 / config.n_folds), predicted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=25_000)
    parser.add_argument("--cards", type=int, default=2)
    parser.add_argument("--tflops", type=float, default=10.0)
    parser.add_argument("--depthwise-tflops", type=float, default=2.0)
    parser.add_argument("--compile-minutes", type=float, default=3.0, help="of each fold and stage")
    args = parser.parse_args()
    config, rows = PROFILES["full"], {}
    cost = {tower: gflop(tower, config) for tower in (*BACKBONES, WAVENET)}
    hours = {  # of a billion windows' predictions
        k: v / (args.depthwise_tflops if k in DEPTHWISE else args.tflops) / 3.6e6
        for k, v in cost.items()
    }
    singles = [single_config(config, name) for name in cost]
    for c in singles + [concat_config(config, (name, WAVENET), ()) for name in BACKBONES]:
        trained, predicted = windows_shown(c, args.windows)
        compiling = len(c.folds) * (2 if c.refine_votes else 1) * args.compile_minutes / 60
        rows[c.name] = {
            "GFLOP": sum(cost[tower] for tower in c.towers), "folds": len(c.folds),
            "epochs": c.epochs, "windows trained on": round(trained),
            "compiling": compiling,
            "GPU hours": (3 * trained + predicted) * sum(hours[t] for t in c.towers) + compiling,
        }  # fmt: skip
    table = pd.DataFrame(rows).T
    speeds = f"{args.tflops:g} and {args.depthwise_tflops:g} TFLOP/s assumed"
    print(f"{args.windows:,} windows, images of {config.inputs['image'].shape}; {speeds}\n")
    print(f"{table.round(2).to_string()}\n")
    of_02 = table.loc[list(BACKBONES), "GPU hours"].sum()
    of_03, week = table["GPU hours"].sum() - of_02, table["GPU hours"].sum() / args.cards
    for name, total in (("02_backbones", of_02), ("03_wavenet_concat", of_03)):
        wall = total / args.cards
        sessions = -(-wall // SESSION_H)
        print(
            f"{name}: {wall:.1f} h on {args.cards} GPUs, sessions of {SESSION_H} h: {sessions:.0f}"
        )
    print(f"together {week:.1f} of a week's {WEEK_H} h{'' if week <= WEEK_H else ': too long'}")


if __name__ == "__main__":
    main()
