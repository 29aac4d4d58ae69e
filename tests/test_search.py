"""A study proposes what it says, stops what falls behind, and goes on where it was."""

from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from test_training import WAVENET

from hmsutils import search
from hmsutils.competition import locked


@pytest.fixture(scope="module")
def base():
    return replace(WAVENET, epochs=2)


def test_a_suggestion_changes_only_what_is_searched(base):
    values = {
        "flip_hemispheres": 0.5, "shift_s": 1.0, "gain_db": 2.0, "drop_channel": 0.1,
        "time_mask": 0.1, "mixup": 0.2, "wavenet_layers": 6, "wavenet_filters": 8,
        "learning_rate": 2e-3, "weight_decay": 0.01, "dropout": 0.4,
    }  # fmt: skip
    config = search.suggest(optuna.trial.FixedTrial(values), base)
    assert config.wavenet.dilations == (1, 2, 4, 8, 16, 32) and config.wavenet.filters == 8
    assert config.augmentation.mixup == 0.2
    assert (config.learning_rate, config.dropout) == (2e-3, 0.4)
    assert (config.towers, config.epochs, config.seed) == (base.towers, base.epochs, base.seed)


def test_a_study_is_shared_and_resumed_and_its_best_trial_is_its_best(
    base, windows, arrays, tmp_path, monkeypatch
):
    def few(trial, base):  # what other processes do not see: they propose networks as well
        rate = trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True)
        return replace(base, learning_rate=rate)

    with monkeypatch.context() as patch:
        patch.setattr(search, "suggest", few)
        study = search.search(base, windows, arrays, tmp_path, n_trials=1)
        again = search.search(base, windows, arrays, tmp_path / "b", n_trials=1)
    first = study.trials[0]
    assert again.trials[0].params == first.params  # one seed, the same proposals
    np.testing.assert_allclose(again.trials[0].value, first.value, rtol=1e-6)
    short = replace(base, epochs=1)
    study = search.search(short, windows, arrays, tmp_path, n_trials=2, n_jobs=2)
    assert len(study.trials) == 2  # two processes train no third one
    assert study.trials[0].params == first.params and study.trials[0].value == first.value
    assert sorted(first.intermediate_values) == [0, 1]
    assert study.best_value == min(t.value for t in study.trials if t.value is not None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hmsutils.lock", "b", "study.db"]


class Trained:
    """Stands for a fold: its KL is the learning rate, so that no time goes into networks."""

    def __init__(self, config, *args, **options):
        self.kl = config.learning_rate

    def history(self):
        return pd.DataFrame({"val_kl": [self.kl + 1, self.kl]})


def proposals(study):
    return [trial.params for trial in study.get_trials(states=search.ENDED)]


def test_killed_trials_fail_and_are_proposed_again_and_living_ones_are_left_alone(
    base, tmp_path, monkeypatch
):
    monkeypatch.setattr(search, "train_fold", Trained)
    whole = search.search(base, None, {}, tmp_path / "whole", n_trials=12)  # ten are at random
    search.search(base, None, {}, tmp_path / "cut", n_trials=11)
    study = search.open_study(tmp_path / "cut")
    killed, folder = study.ask(), tmp_path / "cut" / "trial0011"
    search.suggest(killed, base)
    (folder / "fold0").mkdir(parents=True)
    (tmp_path / "cut" / "trial0003").mkdir()  # told, and then killed
    with locked(folder, "another search"):  # it lives
        search._clean_up(study, tmp_path / "cut")
        assert study.trials[killed.number].state == TrialState.RUNNING and folder.exists()
    study = search.search(base, None, {}, tmp_path / "cut", n_trials=12)
    assert [trial.state for trial in study.trials[11:]] == [TrialState.FAIL, TrialState.COMPLETE]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [
        ".hmsutils.lock",
        "study.db",
    ]
    assert proposals(study) == proposals(whole)
    assert study.best_value == min(p["learning_rate"] for p in proposals(study))


def test_a_trial_that_diverges_ends_and_the_next_one_is_another(base, tmp_path, monkeypatch):
    def diverge(*args, **options):
        raise FloatingPointError("NaN")

    monkeypatch.setattr(search, "train_fold", diverge)
    study = search.search(base, None, {}, tmp_path, n_trials=2)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] * 2
    assert study.trials[0].params != study.trials[1].params


def test_a_trial_that_raises_fails_and_leaves_nothing(base, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("no room")

    monkeypatch.setattr(search, "train_fold", fail)
    with pytest.raises(OSError, match="no room"):
        search.search(base, None, {}, tmp_path, n_trials=2)
    assert [trial.state for trial in search.open_study(tmp_path).trials] == [TrialState.FAIL]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hmsutils.lock", "study.db"]


def test_the_best_config_is_what_the_best_trial_proposed(base, tmp_path):
    study = search.open_study(tmp_path)
    for value in (0.9, 0.7, 0.8):
        trial = study.ask()
        config = search.suggest(trial, base)
        study.tell(trial, value)
        if value == 0.7:
            wanted = config
    assert search.best_config(study, base) == wanted


def test_a_trial_that_falls_behind_is_stopped(tmp_path):
    study = search.open_study(tmp_path)
    for value in (1.0, 1.1, 0.9, 1.0):
        trial = study.ask()
        trial.report(value, 0)
        study.tell(trial, value)
    bad = study.ask()
    with pytest.raises(optuna.TrialPruned, match="epoch 1: KL 2.000"):
        search._Report(bad).on_epoch_end(0, {"val_kl": 2.0})
    search._Report(study.ask()).on_epoch_end(0, {"val_kl": 0.5})


def test_only_folders_of_trials_are_removed(tmp_path):
    study = search.open_study(tmp_path)
    (tmp_path / "trials_backup").mkdir()
    (tmp_path / "trial_notes.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "trial0009").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "trial0001").mkdir()  # of a process that was killed
    search._clean_up(study, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"trials_backup", "trial_notes.txt", "elsewhere", "trial0009", "study.db"}
    assert not list((tmp_path / "elsewhere").iterdir())
