"""The simulated competition: the competition's files, filled with simulated EEG and votes."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hmsutils.brain import RATES, STANDARD, Domain, Episode, draw, draw_patient, simulate_eeg
from hmsutils.files import (
    CLASSES,
    ELECTRODES,
    SFREQ_HZ,
    SIMULATION_FILE,
    TARGET_COLUMNS,
    VOTE_COLUMNS,
    WINDOW_S,
    Competition,
)
from hmsutils.spectrograms import OFFICIAL_REGIONS, official_frequencies_hz, regional_multitaper
from hmsutils.store import represent

VERSION = 3  # raise it when the same seed gives other files
BEFORE_S = 275  # the 50 s of an EEG sit at 275–325 s of its 10 minutes

# How often a second rater names each class, given the first (rows and columns as CLASSES).
CONFUSION = np.array(
    [
        [0.26, 0.11, 0.41, 0.07, 0.03, 0.13],
        [0.03, 0.62, 0.07, 0.10, 0.03, 0.15],
        [0.10, 0.06, 0.66, 0.01, 0.05, 0.12],
        [0.03, 0.14, 0.02, 0.47, 0.08, 0.27],
        [0.01, 0.04, 0.08, 0.08, 0.49, 0.30],
        [0.02, 0.09, 0.08, 0.12, 0.13, 0.57],
    ]
)


@dataclass(frozen=True)
class Panel:
    """A population of raters. `spread` 0: all agree with the class, 1: opinions as in CONFUSION;
    `evenness`: Dirichlet concentration, high where all EEGs of a class are equally hard."""

    shares: tuple[float, ...]  # of the six classes
    spread: float
    evenness: float
    raters: tuple[float, float, int, int]  # mean, standard deviation, least, most


FEW = Panel((0.30, 0.11, 0.10, 0.16, 0.20, 0.13), 0.3, 2.0, (3.0, 0.7, 1, 7))
MANY = Panel((0.015, 0.19, 0.25, 0.16, 0.14, 0.26), 0.75, 6.0, (15.0, 3.0, 10, 28))
SHARE_OF_MANY = 0.374

# ------------------------------------------------------------------------------ votes and tables


def draw_opinion(panel: Panel, rng: np.random.Generator, preference=1.0) -> np.ndarray:
    """(6,) how likely a rater of the panel names each class for one EEG.

    `preference` (6,) multiplies the panel's class shares: a patient shows some patterns more often.
    """
    weight = np.asarray(panel.shares) * preference
    cls = rng.choice(len(CLASSES), p=weight / weight.sum())
    centre = panel.spread * CONFUSION[cls] / CONFUSION[cls].sum()
    centre[cls] += 1 - panel.spread
    return rng.dirichlet(panel.evenness * centre + 1e-6)


def draw_votes(panel: Panel, opinion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(6,) votes of as many raters as the panel has."""
    mean, std, least, most = panel.raters
    return rng.multinomial(int(np.clip(np.round(rng.normal(mean, std)), least, most)), opinion)


def _plan_eeg(preference: np.ndarray, split: str, rng: np.random.Generator) -> dict:
    """Opinion, row offsets and votes of one EEG; most rows repeat the votes of the first."""
    panel = MANY if split == "test" or rng.random() < SHARE_OF_MANY else FEW
    opinion = draw_opinion(panel, rng, preference)
    n_rows = 1 if split == "test" else int(np.clip(np.round(draw(rng, 1, 3, 13)), 1, 60))
    last = 2 * int(np.ceil(n_rows * rng.uniform(1, 4))) if n_rows > 1 else 0
    inner = rng.choice(np.arange(2, last, 2), max(0, n_rows - 2), replace=False) if last else []
    offsets = sorted({0, last, *(int(o) for o in inner)})
    votes = [draw_votes(panel, opinion, rng)] * len(offsets)
    if len(offsets) > 1 and rng.random() < 0.15:
        change = rng.integers(1, len(offsets))
        votes[change:] = [draw_votes(panel, opinion, rng)] * (len(offsets) - change)
    return {"opinion": opinion, "offsets": offsets, "votes": votes, "length_s": WINDOW_S + last}


def _plan(split: str, n_patients: int, seed: int) -> list[dict]:
    """All recordings of a split: ids, patients, EEGs with their place in the recording, votes."""
    rng = np.random.default_rng([seed, ("train", "test").index(split)])
    plans = []
    for patient_id in rng.choice(65_536, n_patients, replace=False).tolist():
        patient, preference = draw_patient(rng), rng.dirichlet(np.full(len(CLASSES), 0.25)) + 1e-3
        for _ in range(1 if split == "test" else int(np.clip(draw(rng, 1, 2.2, 9), 1, 12))):
            eegs, start_s = [], 0
            for _ in range(1 if split == "test" else rng.choice([1, 2, 3], p=[0.65, 0.25, 0.10])):
                eegs.append(_plan_eeg(preference, split, rng) | {"start_s": start_s})
                start_s += eegs[-1]["length_s"] + 2 * int(rng.integers(15, 60))
            plans.append(
                {"patient_id": patient_id, "patient": patient, "eegs": eegs, "split": split}
            )
    eeg_ids = iter(_unique_ids(2**32, sum(len(plan["eegs"]) for plan in plans), rng))
    for i, spectrogram_id in enumerate(_unique_ids(2**31, len(plans), rng)):
        plans[i] |= {"spectrogram_id": spectrogram_id, "seed": [seed, len(split), i]}
        for eeg in plans[i]["eegs"]:
            eeg["eeg_id"] = next(eeg_ids)
    return plans


def _unique_ids(below: int, n: int, rng: np.random.Generator) -> list[int]:
    """Different ids, as scattered as the competition's."""
    return list(dict.fromkeys(rng.integers(10**6, below, 2 * n + 8).tolist()))[:n]


def _train_rows(plan: dict) -> list[dict]:
    """Rows of train.csv for one recording; `label_id` is filled in later."""
    rows = []
    for eeg in plan["eegs"]:
        for i, (offset, votes) in enumerate(zip(eeg["offsets"], eeg["votes"], strict=True)):
            row = {
                "eeg_id": eeg["eeg_id"],
                "eeg_sub_id": i,
                "eeg_label_offset_seconds": float(offset),
                "spectrogram_id": plan["spectrogram_id"],
                "spectrogram_sub_id": len(rows),
                "spectrogram_label_offset_seconds": float(eeg["start_s"] + offset),
                "label_id": 0,
                "patient_id": plan["patient_id"],
                "expert_consensus": CLASSES[int(np.argmax(votes))],
            }
            rows.append(row | dict(zip(VOTE_COLUMNS, votes.tolist(), strict=True)))
    return rows


def simulate_window(
    rng: np.random.Generator,
    domain: Domain = STANDARD,
    panels: Sequence[Panel] = (FEW, MANY),
    *,
    balanced: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One labelled window of a new patient, for training without files.

    Args:
        domain: which brains and machines there are.
        panels: populations of raters, equally frequent.
        balanced: all six classes equally frequent; else as in the panel.

    Returns:
        (10000, 20) float32 raw microvolts, (6,) votes, and (6,) the opinion that they were drawn
        from: what infinitely many raters would have said.
    """
    panel = panels[rng.integers(len(panels))]
    opinion = draw_opinion(panel, rng, 1 / np.asarray(panel.shares) if balanced else 1.0)
    episode = (rng.uniform(-20, 18), rng.uniform(32, 70), opinion)
    if opinion[0] > 0.3:
        episode = (rng.uniform(-25, 18), rng.uniform(35, 75), opinion)
    eeg_uv = simulate_eeg(WINDOW_S, draw_patient(rng, domain.ranges), [episode], rng, domain)
    return eeg_uv, draw_votes(panel, opinion, rng), opinion


def simulate_batch(
    configs: Mapping[str, object], seeds: Sequence[Sequence[int]], *args, **options
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Labelled windows as representations, one of each seed; for worker processes.

    Args:
        configs: representations by name, as in `store.build`.
        seeds: one sequence of whole numbers per window; the same one gives the same window.
        The rest: see `simulate_window`.

    Returns:
        {name: (N, ...)} representations, (N, 6) votes and (N, 6) opinions.
    """
    with threadpool_limits(1):
        made = [simulate_window(np.random.default_rng(s), *args, **options) for s in seeds]
        eeg_uv, votes, opinion = (np.stack(part) for part in zip(*made, strict=True))
        return represent(configs, eeg_uv), votes, opinion


@dataclass(frozen=True)
class Part:
    """Some windows of a pool: whose they are, and what is done with them."""

    n_windows: int
    domain: Domain
    seed: tuple[int, ...]
    fold: int  # 0: held out
    panels: tuple[Panel, ...] = (FEW, MANY)
    balanced: bool = True
    opinions: bool = False  # targets without the noise of votes, to learn from


def simulate_pool(
    parts: Sequence[Part],
    configs: Mapping[str, object],
    out_dir: str | Path,
    *,
    n_jobs: int | None = None,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Labelled windows without a competition around them, every one of a new patient.

    Args:
        parts: one after the other.
        configs: representations by name, as in `store.build`.
        out_dir: a folder named after parts and configs is made in it; a pool that is killed goes on
            where it was.
        n_jobs: processes; None: one per core.

    Returns:
        Windows with `part` (its place in `parts`), votes, targets and `fold`, and
        {name: (N, ...) float16 memory-mapped array}.
    """
    name = hashlib.sha256(repr((VERSION, parts, sorted(configs.items()))).encode()).hexdigest()[:12]
    folder, n_windows = Path(out_dir) / f"pool-{name}", sum(part.n_windows for part in parts)
    if not (folder / "done.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        blank = np.zeros((1, WINDOW_S * SFREQ_HZ, len(ELECTRODES)), np.float32)
        shapes = {k: (a.shape[1:], np.float16) for k, a in represent(configs, blank).items()}
        shapes |= {"votes": ((6,), np.int16), "opinion": ((6,), np.float32), "done": ((), bool)}
        for k, (shape, kind) in shapes.items():
            np.lib.format.open_memmap(folder / f"{k}.npy", "w+", kind, (n_windows, *shape))
    tasks, first = [], 0
    for part in parts:
        for i in range(0, part.n_windows, 64):
            ids = range(i, min(i + 64, part.n_windows))
            tasks.append(delayed(_fill_pool)(folder, configs, part, ids, first + i))
        first += part.n_windows
    with tqdm(desc="Simulating windows", total=n_windows, mininterval=5) as bar:
        for done in Parallel(n_jobs or os.cpu_count(), return_as="generator_unordered")(tasks):
            bar.update(done)
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    return _pool_table(parts, arrays), {k: arrays[k] for k in configs}


def _fill_pool(folder: Path, configs, part: Part, ids: range, first: int) -> int:
    """Simulate windows `ids` of a part into rows from `first` on, unless they are there."""
    arrays = {path.stem: np.load(path, mmap_mode="r+") for path in folder.glob("*.npy")}
    rows = slice(first, first + len(ids))
    if not arrays["done"][rows].all():
        made, votes, opinion = simulate_batch(
            configs, [(*part.seed, i) for i in ids], part.domain, part.panels,
            balanced=part.balanced,
        )  # fmt: skip
        for k, values in {**made, "votes": votes, "opinion": opinion}.items():
            arrays[k][rows] = values
        arrays["done"][rows] = True
    return len(ids)


def _pool_table(parts: Sequence[Part], arrays: Mapping[str, np.ndarray]) -> pd.DataFrame:
    part = np.repeat(np.arange(len(parts)), [p.n_windows for p in parts])
    votes, ids = arrays["votes"], np.arange(len(part))
    table = pd.DataFrame({"eeg_id": ids, "eeg_offset_s": 0, "label_id": ids, "patient_id": ids})
    table["part"], table["fold"] = part, np.array([p.fold for p in parts])[part]
    table[list(VOTE_COLUMNS)], table["n_votes"] = votes, votes.sum(axis=1)
    exact = np.array([p.opinions for p in parts])[part]
    share = votes / votes.sum(axis=1, keepdims=True)
    table[list(TARGET_COLUMNS)] = np.where(exact[:, None], arrays["opinion"], share)
    return table


# ------------------------------------------------------------------------------ files


def _episodes(plan: dict, seconds: float, rng: np.random.Generator) -> list[Episode]:
    """When the pattern of each EEG is there: always in its labelled centres, often beyond."""
    episodes, previous_s = [], 0.0
    starts_s = [BEFORE_S + eeg["start_s"] for eeg in plan["eegs"]]
    for eeg, start_s, next_s in zip(plan["eegs"], starts_s, [*starts_s[1:], seconds], strict=True):
        end_s = start_s + eeg["length_s"]
        before_s, after_s = rng.uniform(-15, [100, 100])
        if eeg["opinion"][0] > 0.3:  # a seizure begins in the EEG and does not last for ever
            before_s, after_s = rng.uniform(-18, -5), rng.uniform(-15, 25)
        begin_s = max(previous_s, start_s - before_s)
        previous_s = min(0.5 * (end_s + next_s), end_s + after_s)
        episodes.append((begin_s, previous_s, eeg["opinion"]))
    return episodes


def _write_recording(plan: dict, root: Path) -> None:
    """Write one recording: its EEGs, then its spectrogram; where that is, all is complete."""
    with threadpool_limits(1):  # the same rounding whatever the number of processes
        rng = np.random.default_rng(plan["seed"])
        last = plan["eegs"][-1]
        seconds = 602 + last["start_s"] + last["length_s"] - WINDOW_S
        episodes = _episodes(plan, seconds, rng)
        eeg_uv = simulate_eeg(seconds, plan["patient"], episodes, rng)
        _punch_gaps(eeg_uv, plan, rng)
        for eeg in plan["eegs"]:
            start = (BEFORE_S + eeg["start_s"]) * SFREQ_HZ
            values = eeg_uv[start : start + eeg["length_s"] * SFREQ_HZ].round(2)
            path = root / f"{plan['split']}_eegs" / f"{eeg['eeg_id']}.parquet"
            pd.DataFrame(values, columns=list(ELECTRODES)).to_parquet(path, index=False)
        path = _spectrogram_path(plan, root)
        _spectrogram_table(eeg_uv, plan["split"]).to_parquet(path.with_suffix(".part"), index=False)
        path.with_suffix(".part").rename(path)


def _punch_gaps(eeg_uv: np.ndarray, plan: dict, rng: np.random.Generator, rates=RATES) -> None:
    """Set NaN blocks in place: seconds inside an EEG, or minutes before the first one."""
    for eeg in plan["eegs"]:
        start = (BEFORE_S + eeg["start_s"]) * SFREQ_HZ
        length, luck = eeg["length_s"] * SFREQ_HZ, rng.random()
        if luck < rates["gap"] + rates["mostly_gap"]:
            share = (
                rng.uniform(0.55, 0.95) if luck < rates["mostly_gap"] else rng.uniform(0.004, 0.06)
            )
            first = start + rng.integers(0, int((1 - share) * length))
            eeg_uv[first : first + int(share * length)] = np.nan
    if rng.random() < rates["long_gap"]:
        first, gap = rng.integers(0, 150 * SFREQ_HZ), int(rng.exponential(200) * SFREQ_HZ)
        eeg_uv[first : min(first + gap, BEFORE_S * SFREQ_HZ)] = np.nan


def _spectrogram_path(plan: dict, root: Path) -> Path:
    return root / f"{plan['split']}_spectrograms" / f"{plan['spectrogram_id']}.parquet"


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
        FileExistsError: the folder holds other competition files.
    """
    root = Path(out_dir)
    settings = {"n_patients": n_patients, "seed": seed, "version": VERSION}
    mark = root / SIMULATION_FILE
    found = json.loads(mark.read_text()) if mark.exists() else None
    if found not in (None, settings) or (found is None and (root / "train.csv").exists()):
        raise FileExistsError(
            f"{root}: holds another competition ({found or 'not simulated'}), wanted {settings}; "
            f"choose another folder or delete this one"
        )
    plans = [*_plan("train", n_patients, seed), *_plan("test", max(4, n_patients // 10), seed)]
    for kind in ("train_eegs", "train_spectrograms", "test_eegs", "test_spectrograms"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(settings))
    todo = [plan for plan in plans if not _spectrogram_path(plan, root).exists()]
    jobs = Parallel(n_jobs or os.cpu_count(), return_as="generator_unordered")(
        delayed(_write_recording)(plan, root) for plan in todo
    )
    for _ in tqdm(jobs, "Simulating 10-minute recordings", len(todo), mininterval=2):
        pass
    _write_tables(plans, root, seed)
    return Competition(root.resolve(), "simulated", f"simulated with seed {seed}")


def _write_tables(plans: list[dict], root: Path, seed: int) -> None:
    """train.csv last: a folder that has it is complete."""
    test = [
        {k: plan[k] for k in ("spectrogram_id", "patient_id")}
        | {"eeg_id": plan["eegs"][0]["eeg_id"]}
        for plan in plans
        if plan["split"] == "test"
    ]
    test = pd.DataFrame(test)[["spectrogram_id", "eeg_id", "patient_id"]]
    test.to_csv(root / "test.csv", index=False)
    sample = test[["eeg_id"]].assign(**dict.fromkeys(VOTE_COLUMNS, 1 / len(CLASSES)))
    sample.to_csv(root / "sample_submission.csv", index=False)
    train = pd.DataFrame(
        [r for plan in plans if plan["split"] == "train" for r in _train_rows(plan)]
    )
    train["label_id"] = _unique_ids(2**32, len(train), np.random.default_rng([seed, len(train)]))
    train.to_csv(root / "train.csv", index=False)
