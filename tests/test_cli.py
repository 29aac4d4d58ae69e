"""The command lines: thin, documented, and with errors that help."""

import subprocess
import sys

import pandas as pd
import pytest
from conftest import REPOSITORY

from hmsutils import __main__
from hmsutils.files import SIMULATION_FILE, find_competition


def test_simulate_writes_a_competition_and_prints_progress(tmp_path, capfd):
    __main__.main(["simulate", "--patients", "1", "--seed", "5", "--out", str(tmp_path / "c")])
    captured = capfd.readouterr()
    assert "simulated with seed 5" in captured.out and "Simulating" in captured.err
    assert (tmp_path / "c" / SIMULATION_FILE).exists()
    assert pd.read_csv(tmp_path / "c" / "train.csv")["patient_id"].nunique() == 1
    assert find_competition(tmp_path / "c").kind == "simulated"


def test_spectrograms_computes_both_inputs(competition, tmp_path, capsys):
    data = ["--data", str(competition.root), "--split", "test"]
    small = ["--mels", "8", "--frames", "32", "--out", str(tmp_path)]
    __main__.main(["spectrograms", *data, *small])
    out = capsys.readouterr().out
    assert "image: (4, 32, 32, 3) float16" in out and "eeg: (4, 2000, 18) float16" in out


def test_results_without_runs_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="make notebooks"):
        __main__.main(["results"])


def test_help_names_every_command():
    command = [sys.executable, "-m", "hmsutils", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY).stdout
    names = "simulate download spectrograms predict export results kaggle".split()
    assert all(name in out for name in names)
