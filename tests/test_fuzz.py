"""Whatever bytes a file holds, reading it works or ends in one error that names the file.

The doors: EEG and spectrogram files, the two tables, recordings, and the description of a run.
`HMS_EXAMPLES=5000` tries more bytes than the fixed ones (conftest.py).
"""

import json
import signal
import warnings
from contextlib import contextmanager

import edfio
import numpy as np
import pandas as pd
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from hmsutils import records
from hmsutils.competition import CLASSES, ELECTRODES, SFREQ_HZ, VOTE_COLUMNS, Competition
from hmsutils.recordings import read_recording
from hmsutils.runs import Run, released_run

HANGS_S = 20
ROW = {
    "eeg_id": 7, "eeg_sub_id": 0, "eeg_label_offset_seconds": 0.0, "spectrogram_id": 8,
    "spectrogram_sub_id": 0, "spectrogram_label_offset_seconds": 0.0, "label_id": 9,
    "patient_id": 1, "expert_consensus": CLASSES[0], **dict.fromkeys(VOTE_COLUMNS, 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A competition of one EEG, a recording and a run; all small, so that changes hit much."""
    root = tmp_path_factory.mktemp("fuzz")
    for split in ("train", "test"):
        for kind in ("eegs", "spectrograms"):
            (root / f"{split}_{kind}").mkdir()
    eeg = pd.DataFrame(np.zeros((10_000, 20), np.float32), columns=list(ELECTRODES))
    eeg.iloc[::100] = np.arange(20)
    eeg.to_parquet(root / "train_eegs" / "7.parquet")
    eeg.to_parquet(root / "test_eegs" / "7.parquet")
    names = [f"{region}_{i}" for region in ("LL", "RL", "LP", "RP") for i in range(100)]
    spectrogram = pd.DataFrame(np.ones((300, 400), np.float32), columns=names)
    spectrogram.insert(0, "time", np.arange(300))
    spectrogram.to_parquet(root / "train_spectrograms" / "8.parquet")
    pd.DataFrame([ROW, ROW | {"label_id": 10}]).to_csv(root / "train.csv", index=False)
    pd.DataFrame([ROW])[["spectrogram_id", "eeg_id", "patient_id"]].to_csv(
        root / "test.csv", index=False
    )
    unit = {"physical_dimension": "uV", "physical_range": (-3e3, 3e3)}
    signals = [
        edfio.EdfSignal(np.arange(6000) / 100, 100, label=name, **unit) for name in ELECTRODES
    ]
    edfio.Edf(signals).write(root / "x.edf")
    (root / "run").mkdir()
    description = released_run("mobilenet_v3_large+wavenet").description
    (root / "run" / "run.json").write_text(json.dumps(description))
    return root


DOORS = {
    "train_eegs/7.parquet": lambda c: (
        records.read_windows(c, 7, [0.0]).shape == (1, 20, 10_000) and records.load_windows(c)
    ),
    "train_spectrograms/8.parquet": lambda c: records.read_spectrogram(c, 8),
    "train.csv": records.load_windows,
    "test.csv": lambda c: records.load_windows(c, "test"),
    "x.edf": lambda c: read_recording(c.root / "x.edf").read(),
    "run/run.json": lambda c: Run(c.root / "run"),
}


@st.composite
def changes(draw):
    """A function of a file's bytes: other bytes, or the same ones with some cut, put in, turned
    or repeated."""
    if draw(st.integers(0, 7)) == 0:
        other = draw(st.binary(max_size=200))
        return lambda body: other
    kinds = st.sampled_from(["turn", "turn", "turn", "put", "cut", "repeat", "end"])
    edit = st.tuples(kinds, st.floats(0, 1, exclude_max=True), st.integers(1, 64),
                     st.binary(min_size=1, max_size=6))  # fmt: skip
    edits = draw(st.lists(edit, min_size=1, max_size=3))

    def change(body):
        for kind, where, length, new in edits:
            # Half of all edits near an end: headers and footers decide how the rest is read.
            span = len(body) if where < 0.5 else min(len(body), 600)
            at = int(2 * (where % 0.5) * span)
            at = max(len(body) - 1 - at, 0) if where > 0.75 else at
            cut = {"cut": length, "turn": len(new), "end": len(body)}.get(kind, 0)
            put = {"put": new, "turn": new, "repeat": body[at : at + length] * 3}.get(kind, b"")
            body = body[:at] + put + body[at + cut :]
        return body

    return change


@contextmanager
def at_most(seconds):
    def stop(*_):
        raise RuntimeError(f"it hangs: not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("door", DOORS)
@given(change=changes())
def test_any_bytes_are_read_or_refused_by_one_error_that_names_the_file(root, door, change):
    path = root / door
    good = path.read_bytes()
    path.write_bytes(change(good))
    try:
        with at_most(HANGS_S), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            DOORS[door](Competition(root, "local"))
        event("read")
    except (ValueError, OSError) as error:
        event(f"refused: {type(error).__name__}")
        assert path.name in str(error), repr(error)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("door", DOORS)
def test_the_unchanged_files_are_good(root, door):
    DOORS[door](Competition(root, "local"))


def test_recordings_of_the_right_length_come_out(root):
    assert read_recording(root / "x.edf").read().shape == (60 * SFREQ_HZ, 20)
