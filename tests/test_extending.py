"""The code of CONTRIBUTING.md: a data set, a representation, a backbone and an augmentation of
one's own, each in one place, are trained together."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from hmsutils import augment, inference, models
from hmsutils.competition import VOTE_COLUMNS
from hmsutils.runs import Run
from hmsutils.simulate import simulate_window


@pytest.fixture
def restored():
    """What the code adds is taken away again."""
    backbones, steps = dict(models.BACKBONES), dict(augment.STEPS)
    yield
    for table, before in ((models.BACKBONES, backbones), (augment.STEPS, steps)):
        table.clear()
        table.update(before)


def test_the_code_of_contributing_trains_one_epoch(tmp_path, monkeypatch, restored):
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    eegs, votes = {}, []
    for i in range(16):
        eegs[i], counts, _ = simulate_window(np.random.default_rng(i))
        votes.append(counts)
    table = pd.DataFrame(votes, columns=list(VOTE_COLUMNS))
    table = table.assign(eeg_id=list(eegs), patient_id=list(eegs))
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.S)
    assert len(blocks) == 5
    names = {"__name__": "contributing", "root": tmp_path / "own", "eegs": eegs, "table": table}
    calls = []
    for block in blocks:
        exec(block, names)  # noqa: S102 — the code of CONTRIBUTING.md
        if "STEPS" in block:
            added = augment.STEPS["noise"]
            augment.STEPS["noise"] = lambda *a, added=added: calls.append(a[2]) or added(*a)
    assert set(calls) == {0.1}
    run = Run(names["run"])
    assert run.config["inputs"]["envelope"]["type"] == "Envelope"
    assert run.config["augmentation"]["extra"] == {"noise": 0.1}
    stored = names["arrays"]["envelope"]
    assert stored.shape == (16, 50, 18) and stored.dtype == np.int16
    prediction = inference.predict(inference.load_models([run]), np.stack(list(eegs.values())[:2]))
    assert prediction.shape == (2, 6)
    np.testing.assert_allclose(prediction.sum(axis=1), 1)
