"""What one GPU does with these networks: windows per second, and the share of its matrix products.

    python benchmarks/gpu.py            # on a machine with an NVIDIA GPU; writes GPU.md, gpu.json
    python benchmarks/gpu.py --small    # small networks, on a CPU: shows that it runs

Every network has a process of its own. First a few at a time compile their programs into JAX's
cache, in at most half of `--minutes`; then each is timed alone. What is not compiled or measured in
time is named and left out. A training step is loss, gradients and AdamW as `fit` runs it, on a
batch that lies on the device: what reading and augmenting cost is measured by training_input.py.
Needs JAX and no TensorFlow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import keras
import numpy as np

from hmsutils.config import PROFILES
from hmsutils.models import WAVENET, WaveNetConfig, build_model
from hmsutils.representations import Image, WaveNetInput, raw_to_inputs

HERE, RAW, STANDARD = Path(__file__).parent, " from raw EEG", " (standard strides)"
COLUMNS = """\
Higher is better. "windows/s": trained on, or predicted, in a second. "share of products": the
arithmetic of the network in a second, divided by that of one large matrix product on the same card;
1 would be the most that is possible."""
MOBILENET = "mobilenet_v3_large"
NETWORKS = (  # those that compile quickly first
    WAVENET, "resnet50_v2" + STANDARD, "resnet50_v2", "densenet201", MOBILENET,
    f"{MOBILENET}+{WAVENET}", "efficientnetv2_b2", MOBILENET + RAW,
)  # fmt: skip
# What is timed: training or prediction, precision, windows in a batch.
CASES = (
    ("train", "float32", 32), ("train", "mixed_float16", 32), ("train", "mixed_float16", 128),
    ("predict", "mixed_float16", 128),
)  # fmt: skip
SMALL = replace(
    PROFILES["smoke"], wavenet=WaveNetConfig(4, dilations=(1, 2), features=8),
    inputs={"image": Image(8, 32), "eeg": WaveNetInput(decimate=50)},
)  # fmt: skip


def network(name: str, config) -> keras.Model:
    """One of NETWORKS, of random weights."""
    towers = tuple(name.removesuffix(RAW).removesuffix(STANDARD).split("+"))
    standard = name.endswith(STANDARD)
    model = build_model(replace(config, towers=towers, standard_strides=standard, weights=None))
    if not name.endswith(RAW):
        return model
    represent = raw_to_inputs({key: config.inputs[key] for key in model.input})
    output = model({key: represent.output[key] for key in model.input})
    return keras.Model(represent.input, output)


def compiled(name: str, config, what: str, precision: str, size: int):
    """(a function without arguments that starts one step and returns its result, GFLOP of it)."""
    keras.utils.clear_session()
    keras.config.set_dtype_policy(precision)
    model, rng = network(name, config), np.random.default_rng(0)
    x = keras.tree.map_structure(
        lambda tensor: jnp.asarray(rng.uniform(0, 1, (size, *tensor.shape[1:])), "float32"),
        model.input,
    )
    y = jnp.full((size, 6), 1 / 6)
    optimizer = keras.optimizers.AdamW(1e-4, clipnorm=1.0)
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)

    def loss(trainable, rest, x, y):
        p, rest = model.stateless_call(trainable, rest, x, training=True)
        kl = jnp.mean(keras.losses.kl_divergence(y, p))
        return optimizer.scale_loss(kl) if precision == "mixed_float16" else kl, rest

    def train(state, x, y):
        trainable, rest, variables = state
        with keras.StatelessScope(
            state_mapping=list(zip(optimizer.variables, variables, strict=True))
        ):
            gradient, rest = jax.grad(loss, has_aux=True)(trainable, rest, x, y)
        trainable, variables = optimizer.stateless_apply(variables, gradient, trainable)
        return trainable, rest, variables

    def predict(state, x, y):
        return model.stateless_call(state[0], state[1], x, training=False)[0]

    parts = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    state = tuple([v.value for v in variables] for variables in parts)
    function = jax.jit(train, donate_argnums=0) if what == "train" else jax.jit(predict)
    lowered = function.lower(state, x, y)
    program = lowered.compile()

    def step():
        nonlocal state
        out = program(state, x, y)  # arguments, as constants would be computed with when compiled
        state = out if what == "train" else state
        return out

    return step, (lowered.cost_analysis() or {}).get("flops", float("nan")) / 1e9


def windows_per_s(step, size: int, seconds: float) -> float:
    """Of as many steps as fit in about these seconds, after two that are not counted."""
    for _ in range(2):
        jax.block_until_ready(step())
    began = time.perf_counter()
    jax.block_until_ready(step())
    steps = max(3, int(seconds / (time.perf_counter() - began)))
    began = time.perf_counter()
    for _ in range(steps):
        out = step()
    jax.block_until_ready(out)
    return steps * size / (time.perf_counter() - began)


def matrix_tflops(dtype: str, size: int, seconds: float) -> float:
    """Of a product of two square matrices, random, of the size that a card is fastest at."""
    a, b = (jax.random.normal(jax.random.key(i), (size, size), dtype) for i in range(2))
    program = jax.jit(jnp.matmul).lower(a, b).compile()
    return windows_per_s(lambda: program(a, b), 1, seconds) * 2 * size**3 / 1e12


def case(name: str, small: bool, seconds: float) -> None:
    """In a process of its own: compile every case, time it for so many seconds (0: only compile),
    print it."""
    config = SMALL if small else PROFILES["full"]
    for what, precision, size in CASES[1:] if small else CASES:
        size = 2 if small else size
        step, gflop = compiled(name, config, what, precision, size)
        if seconds:
            row = {"network": name, "what": what, "precision": precision, "batch": size}
            row |= {"windows/s": windows_per_s(step, size, seconds), "GFLOP a window": gflop / size}
            print(json.dumps(row), flush=True)


def measure(names, small: bool, seconds: float, minutes: float, jobs: int) -> tuple[list, dict]:
    """(rows, TFLOP/s of matrix products by type); prints what was left out."""
    began, options = time.monotonic(), ["--small"] * small

    def run(name: str, seconds: float, until: float) -> list[dict]:
        left = 60 * until - (time.monotonic() - began)
        command = [sys.executable, __file__, *options, "--seconds", str(seconds), "--case", name]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=max(left, 1))
        except subprocess.TimeoutExpired as error:
            print(f"{name}: not ended after {until:.1f} of {minutes:.1f} minutes", flush=True)
            said = error.stdout or b""
            return _rows(said.decode() if isinstance(said, bytes) else said)
        return _rows(done.stdout)

    with tempfile.TemporaryDirectory() as cache:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda name: run(name, 0, minutes / 2), names))
        print(f"compiled after {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
        size = 256 if small else 8192
        peak = {d: matrix_tflops(d, size, seconds) for d in ("float16", "float32")}
        rows = sum((run(name, seconds, minutes) for name in names), [])
    for row in rows:
        tflops = row["windows/s"] * row["GFLOP a window"] / 1000
        row["share of products"] = tflops / peak[row["precision"].removeprefix("mixed_")]
    return rows, peak


def _rows(said: str) -> list[dict]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def markdown(rows: list[dict], facts: dict) -> str:
    lines = [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    for row in rows:
        row = row | {"windows/s": f"{row['windows/s']:,.0f}"}
        row |= {"GFLOP a window": f"{row['GFLOP a window']:.2f}"}
        row |= {"share of products": f"{row['share of products']:.3f}"}
        lines.append(f"| {' | '.join(map(str, row.values()))} |")
    said = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    head = f"# One GPU\n\n`python benchmarks/gpu.py`\n\n{COLUMNS}\n\n{said}\n\n"
    return head + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="of every timing")
    parser.add_argument("--minutes", type=float, default=8.5, help="of everything")
    parser.add_argument("--jobs", type=int, default=4, help="networks that compile at once")
    parser.add_argument("--out", type=Path, default=HERE, help="folder")
    parser.add_argument("--case", choices=NETWORKS, help="(of the processes)")
    parser.add_argument("names", nargs="*", default=NETWORKS)
    args = parser.parse_args()
    if args.case:
        return case(args.case, args.small, args.seconds)
    rows, peak = measure(args.names, args.small, args.seconds, args.minutes, args.jobs)
    if not rows:
        raise SystemExit("gpu.py: nothing was measured; look at the messages above")
    shape = (SMALL if args.small else PROFILES["full"]).inputs["image"].shape
    facts = {"card": jax.devices()[0].device_kind, "images": "×".join(map(str, shape))}
    facts |= {f"matrix product, {k}": f"{v:.1f} TFLOP/s" for k, v in peak.items()}
    facts["versions"] = ", ".join(
        f"{name} {version(name)}" for name in ("jax", "keras", "keras-cv")
    )
    text = markdown(rows, facts)
    print(text)
    if not args.small:
        (args.out / "GPU.md").write_text(text)
        (args.out / "gpu.json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
