"""Labelled windows without a competition around them, every one of a new patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator

from hmsutils import store
from hmsutils.competition import TARGET_COLUMNS, VOTE_COLUMNS, WINDOW_S, fingerprint
from hmsutils.representations import represent
from hmsutils.simulate.domains import HEALTHY_VOTES, STANDARD, VERSION, Domain
from hmsutils.simulate.recording import lose, sample_patient, simulate_eeg
from hmsutils.simulate.votes import FEW, MANY, RaterPopulation, sample_soft_label, sample_votes


@dataclass(frozen=True)
class Split:
    """A part of a pool: its windows, and what they are for."""

    n_windows: int
    domain: Domain
    seed: tuple[int, ...]
    fold: int  # 0: held out
    populations: tuple[RaterPopulation, ...] = (FEW, MANY)  # equally frequent
    balanced: bool = True  # all six classes equally frequent; else as in the population
    soft_labels: bool = False  # targets are soft labels, without the noise of votes


def simulate_window(
    rng: Generator, domain: Domain = STANDARD, populations=(FEW, MANY), *, balanced: bool = False,
    pattern_uv: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """One labelled window of a new patient; the arguments are those of `Split`, `pattern_uv` that
    of `simulate_eeg`. (10000, 20) float32 raw microvolts, with NaN where the domain has `losses`,
    (6,) votes, and (6,) the soft label, the shares of infinitely many votes."""
    population = populations[rng.integers(len(populations))]
    weights = 1 / np.asarray(population.class_shares) if balanced else 1.0
    soft_label = sample_soft_label(population, rng, weights)
    episodes = [(rng.uniform(-20, 18), rng.uniform(32, 70), soft_label)]
    if soft_label[0] > 0.3:
        episodes = [(rng.uniform(-25, 18), rng.uniform(35, 75), soft_label)]
    share = domain.healthy if soft_label.argmax() == 5 else float(domain.healthy == 1)
    if share and rng.random() < share:
        soft_label, episodes = rng.dirichlet(HEALTHY_VOTES), []
    patient = sample_patient(rng, domain.ranges)
    eeg_uv = simulate_eeg(WINDOW_S, patient, episodes, rng, domain, pattern_uv=pattern_uv)
    if domain.losses:
        lose(eeg_uv, domain.losses, rng)
    return eeg_uv, sample_votes(population, soft_label, rng), soft_label


def simulate_pool(
    splits: Sequence[Split], inputs: Mapping, out_dir: str | Path, *, n_jobs: int | None = None
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Simulate the windows of all splits and store their representations: windows with `split`
    (its place in `splits`), `fold`, votes, targets and `data_id` (names the pool), and {name:
    (N, *shape) memory-mapped array} as stored; `inputs` and `n_jobs` as in `store.build`. In
    `out_dir` a folder is named after all settings and versions; a pool that was killed goes on.
    """
    keys = {name: representation.key for name, representation in inputs.items()}
    data_id = fingerprint(VERSION, store.VERSION, splits, keys)
    tasks, first = [], 0
    for split in splits:
        for ids in np.split(np.arange(split.n_windows), range(64, split.n_windows, 64)):
            tasks.append((first + ids, (split, ids, inputs)))
        first += split.n_windows
    arrays = {name: (r.shape, r.stored_as) for name, r in inputs.items()}
    arrays |= {"votes": ((6,), np.int16), "soft_label": ((6,), np.float32)}
    paths = {name: Path(out_dir) / f"pool-{data_id}" / f"{name}.npy" for name in arrays}
    options = {"n_jobs": n_jobs, "description": "Simulating windows"}
    stored = store.fill(paths, arrays, tasks, _simulate_windows, **options)
    return _table(splits, stored, data_id), {name: stored[name] for name in inputs}


def _simulate_windows(split: Split, ids: np.ndarray, inputs: Mapping) -> dict[str, np.ndarray]:
    """Windows of a split as they are stored; the same id gives the same window."""
    rngs = [np.random.default_rng([*split.seed, i]) for i in ids]
    settings = {"populations": split.populations, "balanced": split.balanced}
    made = [simulate_window(rng, split.domain, **settings) for rng in rngs]
    recordings, votes, soft_labels = zip(*made, strict=True)
    values = represent(inputs, np.stack([eeg_uv.T for eeg_uv in recordings]))
    stored = {name: inputs[name].encode(x) for name, x in values.items()}
    return stored | {"votes": np.stack(votes), "soft_label": np.stack(soft_labels)}


def _table(splits: Sequence[Split], stored: Mapping, data_id: str) -> pd.DataFrame:
    """The windows of a pool; see `records` for the columns."""
    split = np.repeat(np.arange(len(splits)), [s.n_windows for s in splits])
    votes, ids = stored["votes"], np.arange(len(split))
    table = pd.DataFrame({"eeg_id": ids, "eeg_offset_s": 0, "label_id": ids, "patient_id": ids})
    table["split"], table["fold"] = split, np.array([s.fold for s in splits])[split]
    table[list(VOTE_COLUMNS)], table["n_votes"] = votes, votes.sum(axis=1)
    exact = np.array([s.soft_labels for s in splits])[split]
    shares = votes / votes.sum(axis=1, keepdims=True)
    table[list(TARGET_COLUMNS)] = np.where(exact[:, None], stored["soft_label"], shares)
    return table.assign(data_id=data_id)
