"""Which GPUs and cores there are, what precision they are good for, and processes for each."""

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from shutil import which
from typing import NamedTuple

import keras
from joblib import Parallel, delayed
from joblib.externals.loky import ProcessPoolExecutor

from hmsutils import competition as ground

# A notebook and the processes that it starts share a GPU; both are read when it is first used.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


class Gpu(NamedTuple):
    id: str  # for CUDA_VISIBLE_DEVICES
    name: str
    capability: float  # 7.5 for a T4; 0: unknown


def cards() -> list[Gpu]:
    """The NVIDIA cards that this process may use, by CUDA_VISIBLE_DEVICES where it is set."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen == "" or not which("nvidia-smi"):
        return []
    query = ["--query-gpu=uuid,name,compute_cap", "--format=csv,noheader"]
    command = ["nvidia-smi", *(["-i", chosen] if chosen else []), *query]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.splitlines() if not done.returncode else ()
    rows = [[part.strip() for part in line.split(",")] for line in lines]
    return [Gpu(uuid, name, float(capability)) for uuid, name, capability in rows]


def gpus() -> list[Gpu]:
    """The GPUs that Keras' backend can use."""
    if (backend := keras.backend.backend()) == "tensorflow":
        import tensorflow as tf

        n = len(tf.config.list_physical_devices("GPU"))
    elif backend == "jax":
        import jax

        n = jax.local_device_count() if jax.default_backend() == "gpu" else 0
    else:
        import torch

        n = torch.cuda.device_count()
    return (cards() or [Gpu(str(i), "GPU", 0.0) for i in range(n)])[:n]


def half_precision(devices: Sequence[Gpu]) -> str:
    """What `precision="auto"` means: half precision where every GPU has fast arithmetic for it."""
    lowest = min((gpu.capability for gpu in devices), default=0)
    return "mixed_bfloat16" if lowest >= 8 else "mixed_float16" if lowest >= 7 else "float32"


def default_n_jobs() -> int:
    """How many folds to train at once: one for each GPU, else for each core (tracing uses one)."""
    return len(gpus()) or ground.default_n_jobs()


def use_xla() -> bool | str:
    """For `compile`: XLA is many times slower than plain graphs for these networks on a CPU."""
    return False if keras.backend.backend() == "tensorflow" and not gpus() else "auto"


def describe(precisions: Iterable[str]) -> str:
    """The devices and the precisions that are trained on, in words."""
    found, backend = gpus(), keras.backend.backend()
    where = ", ".join(gpu.name for gpu in found) or f"{ground.default_n_jobs()} CPU cores"
    if not found and (unused := cards()):
        where += f" ({unused[0].name} is not used: {backend} has no CUDA; make notebooks GPU=1)"
    policies = {half_precision(found) if p == "auto" else p for p in precisions}
    return f"{where}, {' and '.join(sorted(policies))}"


def spread(function: Callable, calls: Sequence[Mapping], n_jobs: int) -> Iterator:
    """What `function(**call)` returns, as each ends; `n_jobs` at once, each in a process that sees
    one GPU where there are several."""
    devices = gpus()[:n_jobs]
    if len(devices) < 2:
        work = delayed(function)
        yield from Parallel(n_jobs, return_as="generator_unordered")(work(**c) for c in calls)
        return
    workers = [ProcessPoolExecutor(1, env={"CUDA_VISIBLE_DEVICES": gpu.id}) for gpu in devices]
    free = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def wait_for_one(call: Mapping):
        worker = free.get()
        try:
            return worker.submit(function, **call).result()
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            coming = [pool.submit(wait_for_one, call) for call in calls]
            yield from (future.result() for future in as_completed(coming))
        finally:  # also where one fails, or somebody interrupts it
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.shutdown(kill_workers=True)
