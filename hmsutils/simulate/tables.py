"""The simulated competition: the competition's files, filled with simulated EEG and votes.

All is planned first. A plan is a recording of ten minutes or more: its patient, and the EEGs that
are cut from it, with their rows and votes. Then recordings are simulated, each from its own seed.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.random import Generator
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hmsutils import competition
from hmsutils.competition import CLASSES, ELECTRODES, SFREQ_HZ, VOTE_COLUMNS, WINDOW_S, Competition
from hmsutils.simulate.domains import RATES, VERSION
from hmsutils.simulate.recording import Episode, sample_patient, simulate_eeg
from hmsutils.simulate.votes import FEW, MANY, SHARE_OF_MANY, sample_soft_label, sample_votes
from hmsutils.simulate.waves import sample_lognormal
from hmsutils.spectrograms import OFFICIAL_REGIONS, official_frequencies_hz, regional_multitaper

BEFORE_S = 275  # the first EEG of a recording begins there: its 50 s sit at 275–325 s of 10 minutes


def simulate_competition(
    out_dir: str | Path, n_patients: int = 120, seed: int = 0, *, n_jobs: int | None = None
) -> Competition:
    """Write a competition of simulated EEG in the real one's layout.

    Args:
        out_dir: the folder, made where absent. An interrupted simulation with the same settings
            goes on.
        n_patients: patients in train.csv, about 4 EEGs each; a tenth as many in test.csv.
        seed: the same seed gives the same files, whatever `n_jobs`.
        n_jobs: processes; None: one per core.

    Returns:
        The competition, kind "simulated".

    Raises:
        ValueError: no patient.
        FileExistsError: the folder holds other competition files.
    """
    if n_patients < 1:
        raise ValueError(f"simulate_competition: n_patients is {n_patients}; ask for at least 1")
    made = Competition(Path(out_dir).resolve(), "simulated", f"simulated with seed {seed}")
    settings = {"n_patients": n_patients, "seed": seed, "version": VERSION}
    mark = made.root / competition.SIMULATION_FILE
    found = json.loads(mark.read_text()) if mark.exists() else None
    if found not in (None, settings) or (found is None and (made.root / "train.csv").exists()):
        raise FileExistsError(
            f"{out_dir}: holds another competition ({found or 'not simulated'}), wanted "
            f"{settings}; choose another folder or delete this one"
        )
    plans = plan_recordings("train", n_patients, seed)
    plans += plan_recordings("test", max(4, n_patients // 10), seed)
    for kind in ("train_eegs", "train_spectrograms", "test_eegs", "test_spectrograms"):
        (made.root / kind).mkdir(parents=True, exist_ok=True)
    competition.write_atomically(mark, lambda path: path.write_text(json.dumps(settings)))
    todo = [p for p in plans if not made.spectrogram(p["spectrogram_id"], p["split"]).exists()]
    jobs = Parallel(n_jobs or competition.default_n_jobs(), return_as="generator_unordered")(
        delayed(_write_recording)(plan, made) for plan in todo
    )
    for _ in tqdm(jobs, "Simulating 10-minute recordings", len(todo), mininterval=2):
        pass
    _write_tables(plans, made, seed)
    return made


def plan_recordings(split: str, n_patients: int, seed: int) -> list[dict]:
    """Plans of all recordings of a split, "train" or "test"."""
    rng = np.random.default_rng([seed, ("train", "test").index(split)])
    plans, one = [], split == "test"  # a test patient has one recording of one EEG
    for patient_id in rng.choice(65_536, n_patients, replace=False).tolist():
        patient, weights = sample_patient(rng), rng.dirichlet(np.full(len(CLASSES), 0.25)) + 1e-3
        for _ in range(1 if one else int(np.clip(sample_lognormal(rng, 1, 2.2, 9), 1, 12))):
            eegs, start_s = [], 0
            for _ in range(1 if one else rng.choice([1, 2, 3], p=[0.65, 0.25, 0.10])):
                eegs.append(_plan_eeg(weights, split, rng) | {"start_s": start_s})
                end_s = start_s + eegs[-1]["length_s"]
                start_s = end_s + 2 * int(rng.integers(15, 60))
            plan = {"split": split, "patient_id": patient_id, "patient": patient, "eegs": eegs}
            plans.append(plan | {"duration_s": 602 + end_s - WINDOW_S})
    eeg_ids = iter(_unique_ids(2**32, sum(len(plan["eegs"]) for plan in plans), rng))
    for i, spectrogram_id in enumerate(_unique_ids(2**31, len(plans), rng)):
        plans[i] |= {"spectrogram_id": spectrogram_id, "seed": [seed, len(split), i]}
        for eeg in plans[i]["eegs"]:
            eeg["eeg_id"] = next(eeg_ids)
    return plans


def _plan_eeg(class_weights: np.ndarray, split: str, rng: Generator) -> dict:
    """Soft label, row offsets and votes of one EEG; most rows repeat the votes of the first."""
    population = MANY if split == "test" or rng.random() < SHARE_OF_MANY else FEW
    label = sample_soft_label(population, rng, class_weights)
    n = 1 if split == "test" else int(np.clip(np.round(sample_lognormal(rng, 1, 3, 13)), 1, 60))
    last_s = 2 * int(np.ceil(n * rng.uniform(1, 4))) if n > 1 else 0
    inner_s = rng.choice(np.arange(2, last_s, 2), n - 2, replace=False).tolist() if n > 2 else []
    offsets_s = sorted({0, *inner_s, last_s})
    votes = [sample_votes(population, label, rng)] * len(offsets_s)
    if len(offsets_s) > 1 and rng.random() < 0.15:
        change = rng.integers(1, len(offsets_s))
        votes[change:] = [sample_votes(population, label, rng)] * (len(offsets_s) - change)
    length_s = WINDOW_S + last_s
    return {"soft_label": label, "offsets_s": offsets_s, "votes": votes, "length_s": length_s}


def _unique_ids(below: int, n: int, rng: Generator) -> list[int]:
    """Different ids, as scattered as the competition's."""
    return list(dict.fromkeys(rng.integers(10**6, below, 2 * n + 8).tolist()))[:n]


def _episodes(plan: dict, rng: Generator) -> list[Episode]:
    """When the pattern of each EEG is there: always in its labelled centres, often beyond."""
    episodes, previous_s = [], 0.0
    starts_s = [BEFORE_S + eeg["start_s"] for eeg in plan["eegs"]]
    ends_s = [*starts_s[1:], plan["duration_s"]]
    for eeg, start_s, next_s in zip(plan["eegs"], starts_s, ends_s, strict=True):
        end_s = start_s + eeg["length_s"]
        before_s, after_s = rng.uniform(-15, [100, 100])
        if eeg["soft_label"][0] > 0.3:  # a seizure begins in the EEG and does not last for ever
            before_s, after_s = rng.uniform(-18, -5), rng.uniform(-15, 25)
        begin_s = max(previous_s, start_s - before_s)
        previous_s = min(0.5 * (end_s + next_s), end_s + after_s)
        episodes.append((begin_s, previous_s, eeg["soft_label"]))
    return episodes


def _write_recording(plan: dict, made: Competition) -> None:
    """Write one recording: its EEGs, then its spectrogram; where that is, all is complete."""
    with threadpool_limits(1):  # the same rounding whatever the number of processes
        rng, split = np.random.default_rng(plan["seed"]), plan["split"]
        episodes = _episodes(plan, rng)
        eeg_uv = simulate_eeg(plan["duration_s"], plan["patient"], episodes, rng)
        insert_gaps(eeg_uv, plan, rng)
        for eeg in plan["eegs"]:
            start = (BEFORE_S + eeg["start_s"]) * SFREQ_HZ
            values = eeg_uv[start : start + eeg["length_s"] * SFREQ_HZ].round(2)
            table = pd.DataFrame(values, columns=list(ELECTRODES))
            table.to_parquet(made.eeg(eeg["eeg_id"], split), index=False)
        table = _spectrogram_table(eeg_uv, split)
        path = made.spectrogram(plan["spectrogram_id"], split)
        competition.write_atomically(path, partial(table.to_parquet, index=False))


def insert_gaps(eeg_uv: np.ndarray, plan: dict, rng: Generator, rates=RATES) -> None:
    """Set NaN blocks in place: seconds inside an EEG, or minutes before the first one."""
    for eeg in plan["eegs"]:
        start = (BEFORE_S + eeg["start_s"]) * SFREQ_HZ
        length, luck = eeg["length_s"] * SFREQ_HZ, rng.random()
        if luck < rates["gap"] + rates["mostly_gap"]:
            limits = (0.55, 0.95) if luck < rates["mostly_gap"] else (0.004, 0.06)
            share = rng.uniform(*limits)
            first = start + rng.integers(0, int((1 - share) * length))
            eeg_uv[first : first + int(share * length)] = np.nan
    if rng.random() < rates["long_gap"]:
        first, gap = rng.integers(0, 150 * SFREQ_HZ), int(rng.exponential(200) * SFREQ_HZ)
        eeg_uv[first : min(first + gap, BEFORE_S * SFREQ_HZ)] = np.nan


def _spectrogram_table(eeg_uv: np.ndarray, split: str) -> pd.DataFrame:
    """The official spectrogram; windows that are mostly NaN stay NaN."""
    power = regional_multitaper(eeg_uv)[0]
    lost = np.lib.stride_tricks.sliding_window_view(np.isnan(eeg_uv[:, 0]), 4 * SFREQ_HZ)
    power[lost[:: 2 * SFREQ_HZ].mean(axis=1) > 0.5] = np.nan
    columns = [f"{r}_{f:.2f}" for r in OFFICIAL_REGIONS for f in official_frequencies_hz()]
    table = pd.DataFrame(power.reshape(len(power), -1).round(2), columns=columns)
    time_s = np.arange(1, 2 * len(power), 2, np.int64 if split == "train" else np.int16)
    table.insert(0, "time", time_s)
    return table


_TRAIN_COLUMNS = (
    "eeg_id eeg_sub_id eeg_label_offset_seconds spectrogram_id spectrogram_sub_id "
    "spectrogram_label_offset_seconds label_id patient_id expert_consensus"
).split()


def _write_tables(plans: list[dict], made: Competition, seed: int) -> None:
    """train.csv last: a folder that has it is complete."""
    train = [row for plan in plans if plan["split"] == "train" for row in _train_rows(plan)]
    train = pd.DataFrame(train, columns=[*_TRAIN_COLUMNS, *VOTE_COLUMNS])
    train["label_id"] = _unique_ids(2**32, len(train), np.random.default_rng([seed, len(train)]))
    test = pd.DataFrame([plan for plan in plans if plan["split"] == "test"])
    test["eeg_id"] = [eegs[0]["eeg_id"] for eegs in test["eegs"]]
    test = test[["spectrogram_id", "eeg_id", "patient_id"]]
    sample = test[["eeg_id"]].assign(**dict.fromkeys(VOTE_COLUMNS, 1 / len(CLASSES)))
    for name, table in (("test", test), ("sample_submission", sample), ("train", train)):
        path = made.root / f"{name}.csv"
        competition.write_atomically(path, partial(table.to_csv, index=False))


def _train_rows(plan: dict) -> list[tuple]:
    """Rows of train.csv for one recording; `label_id`, here 0, is filled in later."""
    rows, spectrogram_id, patient_id = [], plan["spectrogram_id"], plan["patient_id"]
    for eeg in plan["eegs"]:
        for i, (offset_s, votes) in enumerate(zip(eeg["offsets_s"], eeg["votes"], strict=True)):
            in_eeg = (eeg["eeg_id"], i, float(offset_s))
            in_recording = (spectrogram_id, len(rows), float(eeg["start_s"] + offset_s))
            consensus = CLASSES[int(np.argmax(votes))]
            rows.append((*in_eeg, *in_recording, 0, patient_id, consensus, *votes.tolist()))
    return rows
