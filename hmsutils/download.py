"""Real data on one's own machine: the competition's files, and 24 expert-labelled sample EEGs.

The values of the twelve odd-numbered samples and their votes must match the hashes kept here. The
even-numbered ones and the `.mat` files themselves have no published hash: a first download that
can be read is believed, and every later one must match its SHA-256 in `originals/registry.txt`.
"""

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import kagglehub
import numpy as np
import pandas as pd
import pooch
import requests
from kagglehub.exceptions import DataCorruptionError, UnauthenticatedError
from scipy.io import loadmat

from hmsutils import competition as ground
from hmsutils.competition import CLASSES, ELECTRODES, SLUG, VOTE_COLUMNS, Competition, home_dir

COUNTS = {"rows": 106_800, "eeg_id": 17_089, "spectrogram_id": 11_138, "patient_id": 1_950}
# Of one file in the archive (16 and 3.5 GB of them) and unpacked beside it (27 GB), in bytes.
BYTES = {"eeg_id": 2.25e6, "spectrogram_id": 0.75e6}
REPOSITORY, COMMIT = "bdsp-core/IIIC-SPaRCNet", "83b43cf4b84f15cd9fd0c578abab9e2820527d53"
SAMPLES_URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/code_for_figures/Data"
PAPER = "Jing J, Ge W, Hong S, et al., Neurology 2023;100(17):e1750–e1762"
ATTRIBUTION = f"24 sample EEGs of github.com/{REPOSITORY}, licence ODC-By 1.0; {PAPER}"
SAMPLES = [f"{name}_sample{i}" for name in ("SZ", *CLASSES[1:]) for i in (1, 2, 3, 4)]
SAMPLE_IDS = [9_000_000_000 + 10 * k + i for k in range(6) for i in (1, 2, 3, 4)]
SHA256 = {  # of (10000, 20) float32 microvolts; "samples": of the (12, 6) int64 votes
    "samples": "e8869d5cbc3761050ca48704302ad359189080a825144ad962906e1f7b2b99c9",
    "SZ_sample1": "2f49d6a7fdfd319a88da2e86f79462ca8f8314361ad1adaade6e6f65d10b380f",
    "SZ_sample3": "a03d32362e0e09b2fab6bd6040d15f3482c3cf16104f793331468c56f591fe3d",
    "LPD_sample1": "6d9a62c0229705d8fae3d7d983466c9d09802294ee63b2cb34f5bf7a735cb374",
    "LPD_sample3": "4ee6f431a2de6e35062df644a5035a0e7522f08b05af6c36f4221c43835184fe",
    "GPD_sample1": "8135330f987b2da1e4157cade87a55a4693c441bb0bc83c1ff9a95b46a4af1f5",
    "GPD_sample3": "23fbf38c2fa778e7c28afb05a98bca70f9b40e63b60aab444e3e5e66fc483f6b",
    "LRDA_sample1": "392f5a35b87cc368c2fe62aee887c62b7326b0c3409dee5f0aae64fdf298df1d",
    "LRDA_sample3": "4b3cb6df4f012a62d182d574cdcfab8cc3e5e3ff6a77d6624e19307b18739f70",
    "GRDA_sample1": "7b6c454f97638999b37cfe714576eaaec43a1ef76fb914861844409462193f84",
    "GRDA_sample3": "c72d1d57444caf20ed06ed5d0de69ef3ab7ffaff1e508509889d7b1c40140247",
    "Other_sample1": "9843d2aee0625f70643062e7630c19293169ad4128e3410b7c1893ecd20c9a51",
    "Other_sample3": "5b23a0ec72c81d63b269e5ed7909ab1d56dc6ba034a4485fcf80e6dbfd60e99f",
}


def download_competition(out: Path | None = None, counts: dict = COUNTS) -> Competition:
    """Download the competition's files with kagglehub, unless none is missing. `out` (`data/raw`)
    needs room for the archive and what is in it; `counts` are the rows of `train.csv`, and how many
    different ids it names. ConnectionError: refused, offline or cut off; the next call goes on
    where it stopped. ValueError: the archive is damaged, or something is missing in it."""
    root = (out or home_dir() / "data/raw").resolve()
    competition = Competition(root, "local", "nothing is missing")
    if _missing(competition, counts):
        there = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        needed = sum(counts[name] * size for name, size in BYTES.items())
        ground.require_room(root, max(0, needed - there), "download competition", announce=True)
        _fetch_competition(root)
        if missing := _missing(competition, counts):
            raise ValueError(f"{root}: downloaded, but {missing}; run the command again")
    return competition


def _missing(competition: Competition, counts: dict) -> str:
    """What the folder lacks, "" if nothing."""
    if not (competition.root / "train.csv").exists():
        return "train.csv is missing"
    path = competition.root / "train.csv"
    with ground.reading(path, "no table of the competition", "delete it and run the command again"):
        table = pd.read_csv(path)
        found = {"rows": len(table), **table.nunique()}
        wrong = [name for name in counts if found[name] != counts[name]]
    lacks = [f"train.csv has {found[k]:,} {k}, wanted {counts[k]:,}" for k in wrong]
    paths = [competition.eeg(i) for i in table["eeg_id"].unique()]
    paths += [competition.spectrogram(i) for i in table["spectrogram_id"].unique()]
    if absent := [path for path in paths if not path.exists()]:
        lacks.append(f"{len(absent):,} files named in train.csv are missing, first {absent[0]}")
    return "; ".join(lacks)


def _fetch_competition(root: Path) -> None:
    # kagglehub goes on with a partial archive in its cache only, not in its `output_dir`.
    cache, before = root / ".kagglehub", os.environ.get("KAGGLEHUB_CACHE")
    os.environ["KAGGLEHUB_CACHE"] = str(cache)
    try:
        unpacked = kagglehub.competition_download(SLUG)
    except (UnauthenticatedError, requests.RequestException) as error:
        raise ConnectionError(
            f"download competition: {error}; Kaggle wants an account, its API token (from "
            f"https://www.kaggle.com/settings/api) in ~/.kaggle/access_token or KAGGLE_API_TOKEN, "
            f"and its rules accepted (https://www.kaggle.com/competitions/{SLUG}/rules); then run "
            f"the command again, with a connection: it goes on from here"
        ) from error
    except (DataCorruptionError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        (cache / "competitions" / f"{SLUG}.archive").unlink(missing_ok=True)
        raise ValueError(f"download competition: {error}; it was removed, run again") from error
    finally:
        del os.environ["KAGGLEHUB_CACHE"]
        os.environ |= {"KAGGLEHUB_CACHE": before} if before else {}
    shutil.copytree(unpacked, root, copy_function=os.replace, dirs_exist_ok=True)
    shutil.rmtree(cache)


def download_samples(
    out: Path | None = None, base_url: str = SAMPLES_URL, known: dict = SHA256
) -> Competition:
    """SPaRCNet's 24 sample EEGs, with votes and the model's predictions, as a competition in `out`
    (`data/iiic_real`). Every EEG counts as its own patient; NaN are kept; `why` is what the licence
    asks to be shown. `base_url` holds `Figure3/` and `Figure4to6/`, `known` hashes by file name.
    ConnectionError: a file did not arrive whole, or is not the one of the first download.
    ValueError: a file does not hold what it should; it was removed."""
    root = (out or home_dir() / "data/iiic_real").resolve()
    names = ["Figure3/samples.mat", *(f"Figure4to6/samples/{name}.mat" for name in SAMPLES)]
    originals = pooch.create(root / "originals", base_url, registry=dict.fromkeys(names))
    (root / "train_eegs").mkdir(parents=True, exist_ok=True)
    if (originals.path / "registry.txt").exists():
        originals.load_registry(originals.path / "registry.txt")
    labels = _sample(originals, names[0], _read_labels, known)
    for name, eeg_id in zip(names[1:], SAMPLE_IDS, strict=True):
        table = pd.DataFrame(_sample(originals, name, _read_eeg, known), columns=ELECTRODES)
        path = root / f"train_eegs/{eeg_id}.parquet"
        ground.write_atomically(path, partial(table.to_parquet, index=False))
    _write_tables(*labels, root)
    return Competition(root, "local", ATTRIBUTION)


def _sample(originals: pooch.Pooch, name: str, read: Callable, known: dict) -> np.ndarray:
    """What `read` makes of a file; one that it cannot use is removed, the others are recorded."""
    try:
        path = Path(originals.fetch(name))
    except (ValueError, requests.RequestException) as error:
        raise ConnectionError(f"{name}: {error}; run again, it goes on from here") from error
    try:
        values, hashed = read(path)
        digest = hashlib.sha256(hashed.tobytes()).hexdigest()
        if known.get(path.stem, digest) != digest:
            raise ValueError("other values than those published")
    except Exception as error:  # a damaged file can raise anything
        path.unlink()
        raise ValueError(f"{name}: {error!r}; it was removed, run again") from error
    if originals.registry[name] is None:
        originals.registry[name] = pooch.file_hash(path)
        known = "".join(f"{k} {v}\n" for k, v in originals.registry.items() if v)
        ground.write_text(originals.path / "registry.txt", known)
    return values


def _read_eeg(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(10000, 20) float32 microvolts; twice, the second to be compared with its hash."""
    seg = loadmat(path)["seg"]
    eeg_uv = np.ascontiguousarray(seg.T if len(seg) == len(ELECTRODES) else seg, "<f4")
    if eeg_uv.shape != (10_000, len(ELECTRODES)):
        raise ValueError(f"`seg` is {seg.shape}, wanted 20 × 10000 or its transpose")
    return eeg_uv, eeg_uv


def _read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(2, 24, 6) votes and probabilities, as in `SAMPLES` and `CLASSES`; votes to verify."""
    rows = [row for cell in loadmat(path, squeeze_me=True)["LUT"] for row in cell]
    # The authors' scripts open the file in column 1, and put Other first in columns 2 and 3.
    found = {Path(row[0]).stem: np.roll(np.stack([*row[1:3]]), -1, axis=1) for row in rows}
    votes, probabilities = labels = np.stack([found[name] for name in SAMPLES], axis=1)
    if labels.shape != (2, 24, 6) or labels.min() < 0 or (votes != votes.round()).any():
        raise ValueError("column 2 of `LUT` holds no counts of votes for six classes")
    if votes.sum(axis=1).min() < 1 or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        raise ValueError("a row of `LUT` holds no vote, or probabilities that do not sum to 1")
    return labels, votes[::2].astype("<i8")


def _write_tables(votes: np.ndarray, probabilities: np.ndarray, root: Path) -> None:
    window = {"id": SAMPLE_IDS, "sub_id": 0, "label_offset_seconds": 0.0}
    table = {f"{kind}_{k}": v for kind in ("eeg", "spectrogram") for k, v in window.items()}
    table |= {"label_id": SAMPLE_IDS, "patient_id": SAMPLE_IDS}
    table["expert_consensus"] = np.take(CLASSES, votes.argmax(axis=1))
    table |= dict(zip(VOTE_COLUMNS, votes.T.astype(int), strict=True))
    predictions = {"eeg_id": SAMPLE_IDS, "source": SAMPLES}
    predictions |= {f"{k.lower()}_sparcnet": probabilities[:, i] for i, k in enumerate(CLASSES)}
    published = pd.DataFrame(predictions).round(6)
    for name, values in ("sparcnet_predictions", published), ("train", pd.DataFrame(table)):
        ground.write_csv(root / f"{name}.csv", values)  # train last


def find_real_samples() -> Competition | None:
    """The sample recordings, else None: from `$HMS_REAL_DIR`, `data/iiic_real`, or
    `shared/data/iiic_real` beside the project."""
    home, named = home_dir(), os.environ.get("HMS_REAL_DIR")
    usual = home / "data/iiic_real", home.parent / "shared/data/iiic_real"
    for root in (Path(named), *usual) if named else usual:
        if (root / "train.csv").exists():
            return Competition(root.resolve(), "local", "real sample recordings")
    return None


def published_predictions(competition: Competition, windows: pd.DataFrame) -> np.ndarray:
    """(N, 6) SPaRCNet's own predictions for the sample recordings, as published with them.
    FileNotFoundError: the competition has no `sparcnet_predictions.csv`."""
    path = competition.root / "sparcnet_predictions.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path}: not found; only the real sample recordings have it")
    columns = [f"{name.lower()}_sparcnet" for name in CLASSES]
    return pd.read_csv(path).set_index("eeg_id").loc[windows["eeg_id"], columns].to_numpy()
