"""The simulated competition: the competition's files, filled with simulated EEG and votes.

All is planned first. A plan is a recording of ten minutes or more: its patient, and the EEGs that
are cut from it, with their rows and votes. Then recordings are simulated, each from its own seed.
"""

import json
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.random import Generator
from pyarrow import ArrowInvalid, parquet
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hmsutils import competition
from hmsutils.competition import CLASSES, ELECTRODES, SFREQ_HZ, VOTE_COLUMNS, WINDOW_S, Competition
from hmsutils.files import read_mark
from hmsutils.simulate.domains import RATES, VERSION
from hmsutils.simulate.recording import Episode, sample_patient, simulate_eeg
from hmsutils.simulate.votes import FEW, MANY, SHARE_OF_MANY, sample_soft_label, sample_votes
from hmsutils.simulate.waves import sample_lognormal
from hmsutils.spectrograms import OFFICIAL_REGIONS, official_frequencies_hz, regional_multitaper

BEFORE_S = 275  # the first EEG of a recording begins there: its 50 s sit at 275–325 s of 10 minutes


def simulate_competition(
    out_dir: str | Path, n_patients: int = 120, seed: int = 0, *, n_jobs: int | None = None
) -> Competition:
    """Write a competition of simulated EEG, of kind "simulated", in the real one's layout.

    A simulation that was interrupted in `out_dir` goes on with the same settings, and what was
    deleted or cut off is made again; while another process simulates there, this one waits. There
    are `n_patients` (1 to 65536) in train.csv, about 4 EEGs each, and a tenth as many in test.csv.
    The same seed gives the same files, whatever `n_jobs` (processes; None: one per core).
    ValueError: no such number of patients, or a damaged `simulation.json`. FileExistsError: the
    folder holds other competition files. OSError: no room, or the folder cannot be written."""
    for name, value, least, most in ("n_patients", n_patients, 1, 65_536), ("seed", seed, 0, 2**63):
        if not isinstance(value, Integral) or isinstance(value, bool) or not least <= value <= most:
            wanted = f"wanted a whole number from {least} to {most}"
            raise ValueError(f"simulate_competition: {name} is {value!r}; {wanted}")
    made = Competition(Path(out_dir).resolve(), "simulated", f"simulated with seed {seed}")
    settings = {"n_patients": int(n_patients), "seed": int(seed), "version": VERSION}
    _refuse_another(made.root, settings)  # before anything is written there
    with competition.locked(made.root, "simulate_competition"):
        _refuse_another(made.root, settings)  # another process may have begun meanwhile
        _simulate(made, settings, n_jobs)
    return made


def _refuse_another(root: Path, settings: dict) -> None:
    names = "train.csv", "test.csv", "sample_submission.csv", "*_eegs", "*_spectrograms"
    others = sorted(path.name for name in names for path in root.glob(name))
    found = read_mark(root)  # last: another process, which begins now, writes it before the others
    if (others and not found) or (found and settings != {k: found.get(k) for k in settings}):
        held = found or f"not simulated: {', '.join(others)}"
        problem = f"{root}: holds another competition ({held}), wanted {settings}"
        raise FileExistsError(f"{problem}; choose another folder or delete this one")


def _simulate(made: Competition, settings: dict, n_jobs: int | None) -> None:
    """Make what a folder lacks: its mark first, which says how many files there must be."""
    seed, n_patients = settings["seed"], settings["n_patients"]
    plans = plan_recordings("train", n_patients, seed)
    plans += plan_recordings("test", max(4, n_patients // 10), seed)
    mark = made.root / competition.SIMULATION_FILE
    if not mark.exists():
        text = json.dumps(settings | {"files": sum(1 + len(plan["eegs"]) for plan in plans)})
        competition.write_text(mark, text)
    for kind in ("train_eegs", "train_spectrograms", "test_eegs", "test_spectrograms"):
        (made.root / kind).mkdir(exist_ok=True)
        competition.remove_parts(made.root / kind)
    todo = [plan for plan in plans if not _is_whole(plan, made)]
    eegs_s = sum(eeg["length_s"] for plan in todo for eeg in plan["eegs"])
    n_bytes = 15_000 * eegs_s + 900 * sum(plan["duration_s"] for plan in todo)  # as measured
    competition.require_room(made.root, n_bytes, "simulate_competition")
    jobs = Parallel(n_jobs or competition.default_n_jobs(), return_as="generator_unordered")(
        delayed(_write_recording)(plan, made) for plan in todo
    )
    for _ in tqdm(jobs, "Simulating 10-minute recordings", len(todo), mininterval=2):
        pass
    _write_tables(plans, made, seed)


def _is_whole(plan: dict, made: Competition) -> bool:
    """Whether all files of a recording are there and none was cut off."""
    sizes = {made.eeg(e["eeg_id"], plan["split"]): e["length_s"] * SFREQ_HZ for e in plan["eegs"]}
    sizes[made.spectrogram(plan["spectrogram_id"], plan["split"])] = plan["duration_s"] // 2 - 1
    try:
        return all(parquet.read_metadata(path).num_rows == n for path, n in sizes.items())
    except (OSError, ArrowInvalid):  # absent, or cut off
        return False


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
    """Write one recording: its EEGs, then its spectrogram."""
    with threadpool_limits(1):  # the same rounding whatever the number of processes
        rng, split = np.random.default_rng(plan["seed"]), plan["split"]
        episodes = _episodes(plan, rng)
        eeg_uv = simulate_eeg(plan["duration_s"], plan["patient"], episodes, rng)
        insert_gaps(eeg_uv, plan, rng)
        for eeg in plan["eegs"]:
            start = (BEFORE_S + eeg["start_s"]) * SFREQ_HZ
            values = eeg_uv[start : start + eeg["length_s"] * SFREQ_HZ].round(2)
            table = pd.DataFrame(values, columns=list(ELECTRODES))
            path = made.eeg(eeg["eeg_id"], split)
            competition.write_atomically(path, partial(table.to_parquet, index=False))
        power = regional_multitaper(eeg_uv)[0]
        lost = np.lib.stride_tricks.sliding_window_view(np.isnan(eeg_uv[:, 0]), 4 * SFREQ_HZ)
        power[lost[:: 2 * SFREQ_HZ].mean(axis=1) > 0.5] = np.nan  # windows that are mostly NaN
        columns = [f"{r}_{f:.2f}" for r in OFFICIAL_REGIONS for f in official_frequencies_hz()]
        table = pd.DataFrame(power.reshape(len(power), -1).round(2), columns=columns)
        time_s = np.arange(1, 2 * len(power), 2, np.int64 if split == "train" else np.int16)
        table.insert(0, "time", time_s)
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


def _write_tables(plans: list[dict], made: Competition, seed: int) -> None:
    """train.csv last: a folder that has it is complete."""
    parts = "id", "sub_id", "label_offset_seconds"
    in_file = [f"{kind}_{part}" for kind in ("eeg", "spectrogram") for part in parts]
    columns = [*in_file, "label_id", "patient_id", "expert_consensus", *VOTE_COLUMNS]
    train = [row for plan in plans if plan["split"] == "train" for row in _train_rows(plan)]
    train = pd.DataFrame(train, columns=columns)
    train["label_id"] = _unique_ids(2**32, len(train), np.random.default_rng([seed, len(train)]))
    test = pd.DataFrame([plan for plan in plans if plan["split"] == "test"])
    test["eeg_id"] = [eegs[0]["eeg_id"] for eegs in test["eegs"]]
    test = test[["spectrogram_id", "eeg_id", "patient_id"]]
    sample = test[["eeg_id"]].assign(**dict.fromkeys(VOTE_COLUMNS, 1 / len(CLASSES)))
    for name, table in (("test", test), ("sample_submission", sample), ("train", train)):
        path = made.root / f"{name}.csv"
        if not path.exists() or path.read_bytes() != table.to_csv(index=False).encode():
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
