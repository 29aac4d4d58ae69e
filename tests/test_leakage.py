"""Nothing that a patient's labels, ids or place in a table say reaches a prediction.

Every test that finds no leak is run a second time with one, to show that it would find it.
"""

import shutil
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import INPUTS

from hmsutils import evaluation, inference, models, records, store, training
from hmsutils.augment import NO_AUGMENTATION
from hmsutils.competition import CLASSES, TARGET_COLUMNS, Competition
from hmsutils.config import TrainConfig
from hmsutils.models import BACKBONES, BackboneSpec, WaveNetConfig
from hmsutils.representations import Representation

N = 160


@dataclass(frozen=True)
class Identity(Representation):
    """Which window it is, and nothing else: all that a network can do is learn it by heart."""

    input: ClassVar[str] = "identity"
    shape: ClassVar[tuple] = (1, N)


def build_memory(spec, shape, weights):
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Reshape((1, *shape))(inputs))


@pytest.fixture
def memory(monkeypatch):
    """A backbone that passes `Identity` on: its head holds one row of weights for each window."""
    spec = BackboneSpec(params=0, features=N, build=build_memory, input=Identity.input)
    monkeypatch.setitem(BACKBONES, "memory", spec)
    return TrainConfig(
        towers=("memory",), inputs={Identity.input: Identity()}, weights=None, n_folds=4,
        folds=(0, 1), epochs=8, batch_size=16, learning_rate=0.3, dropout=0.0,
        augmentation=NO_AUGMENTATION,
    )  # fmt: skip


@pytest.fixture
def shuffled(rng):
    """Windows of 40 patients whose labels were drawn by lot, one for each patient."""
    label = np.repeat(rng.integers(0, 6, N // 4), 4)
    table = pd.DataFrame({"patient_id": np.repeat(np.arange(N // 4), 4), "n_votes": 10})
    table = table.assign(eeg_id=np.arange(N), label_id=np.arange(N), eeg_offset_s=0.0)
    table["expert_consensus"] = np.take(CLASSES, label)
    table[list(TARGET_COLUMNS)] = 0.9 * np.eye(6)[label] + 0.1 / 6
    return table


def gain_over_prior(config, windows, folder) -> float:
    """By how much the held-out KL is lower than that of the other folds' mean; negative: worse."""
    arrays = {Identity.input: np.eye(N, dtype=np.float32)[:, None]}
    (run,) = training.train([config], windows, arrays, runs_dir=folder)
    table = evaluation.results([run])
    return table.loc["prior mean", "KL"] - table.loc["memory", "KL"]


def test_labels_drawn_by_lot_are_predicted_no_better_than_by_the_prior(
    memory, shuffled, tmp_path, monkeypatch
):
    windows = records.assign_folds(shuffled, 4)
    assert gain_over_prior(memory, windows, tmp_path / "tight") < 0.05
    batches = training._batches
    everything = lambda c, w, a, others, epoch: batches(c, w, a, others | True, epoch)  # noqa: E731
    monkeypatch.setattr(training, "_batches", everything)
    assert gain_over_prior(memory, windows, tmp_path / "leaky") > 1


def nearest_patient(windows) -> float:
    """Accuracy of a model that knows its patients again: of held-out windows of one that it has
    seen, the label it saw; of others, the first class."""
    right = []
    for fold in range(4):
        seen = windows[windows["fold"] != fold].groupby("patient_id")["expert_consensus"].first()
        part = windows[windows["fold"] == fold]
        guess = part["patient_id"].map(seen).fillna(CLASSES[0])
        right += (guess == part["expert_consensus"]).tolist()
    return float(np.mean(right))


def test_patients_cannot_be_recognised_across_folds(shuffled):
    folds = records.assign_folds(shuffled, 4)
    assert nearest_patient(folds) < 0.4
    assert nearest_patient(folds.assign(fold=np.arange(N) % 4)) > 0.9


@pytest.fixture(scope="module")
def model():
    """An untrained WaveNet."""
    config = TrainConfig(
        towers=("wavenet",), inputs=INPUTS, weights=None,
        wavenet=WaveNetConfig(filters=4, dilations=(1, 4), features=4),
    )  # fmt: skip
    keras.utils.set_random_seed(3)
    made = models.build_model(config)
    weights = made.get_weights()
    return inference.TrainedModel(lambda: (made, (weights,)), config)


def test_predictions_go_with_their_windows_whatever_the_order(model, competition, windows, rng):
    some = windows.sample(24, random_state=1)
    mixed = some.iloc[rng.permutation(len(some))]
    first, second = (
        pd.DataFrame(inference.predict_windows([model], competition, w, chunk=7), w["label_id"])
        for w in (some, mixed)
    )
    assert first.nunique().min() > 20  # they differ: an exchange would be seen
    pd.testing.assert_frame_equal(first.loc[second.index], second, atol=1e-6)


@pytest.fixture(scope="module")
def renamed(competition, tmp_path_factory):
    """The same competition with other ids of everything, its tables in another order."""
    root = tmp_path_factory.mktemp("renamed")
    for name in ("train.csv", "test.csv"):
        table = pd.read_csv(competition.root / name)
        for kind in ("eeg", "spectrogram"):
            folder = f"{name.removesuffix('.csv')}_{kind}s"
            (root / folder).mkdir()
            for old in table[f"{kind}_id"].unique():
                target = competition.root / folder / f"{old}.parquet"
                (root / folder / f"{other(old)}.parquet").symlink_to(target)
        for column in table.columns.intersection(IDS):
            table[column] = other(table[column])
        table[::-1].to_csv(root / name, index=False)
    shutil.copy(competition.root / "simulation.json", root)
    return Competition(root, "local")


IDS = ["eeg_id", "spectrogram_id", "patient_id", "label_id"]


def other(number):
    """Another number for an id, in another order; 5 and 2^33 share no factor: one to one."""
    return (5 * number + 12_345) % 2**33


def test_ids_and_the_order_of_the_tables_say_nothing(model, competition, renamed, tmp_path):
    tables = [records.load_windows(c).set_index("label_id") for c in (competition, renamed)]
    tables[0].index = other(tables[0].index)
    tables[1] = tables[1].loc[tables[0].index]
    assert not (tables[0]["eeg_id"] == tables[1]["eeg_id"]).any()
    some = [table.reset_index()[::4] for table in tables]
    stored, predicted = [], []
    for c, rows, name in zip((competition, renamed), some, "ab", strict=True):
        stored.append(store.build(c, rows, INPUTS, out_dir=tmp_path / name, n_jobs=1))
        predicted.append(inference.predict_windows([model], c, rows))
    for name in INPUTS:
        np.testing.assert_array_equal(stored[0][name], stored[1][name])
    np.testing.assert_allclose(*predicted, atol=1e-6)


def test_a_submission_is_the_same_under_other_ids(model, competition, renamed):
    first, second = (
        inference.make_submission([model], c).set_index("eeg_id") for c in (competition, renamed)
    )
    first.index = other(first.index)
    assert len(first) >= 4 and first.nunique().min() == len(first)
    pd.testing.assert_frame_equal(first, second.loc[first.index], atol=1e-6)


def test_groups_of_rows_do_not_depend_on_ids_or_order(competition, renamed):
    groups = []
    for c, rename in ((competition, other), (renamed, lambda ids: ids)):
        table = records.label_groups(records.load_windows(c), 3)
        members = table.assign(label_id=rename(table["label_id"])).groupby("label_group")
        groups.append({tuple(sorted(ids)) for _, ids in members["label_id"]})
    assert groups[0] == groups[1] and len(groups[0]) > 50
