"""The command lines: thin, documented, and mistakes answered with one sentence before any work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY

from hmsutils import __main__
from hmsutils.competition import SIMULATION_FILE
from hmsutils.files import find_competition


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
    assert "image: (4, 32, 32, 3) uint8" in out and "eeg: (4, 2000, 18) int16" in out


def test_help_names_every_command():
    command = [sys.executable, "-m", "hmsutils", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY).stdout
    names = "simulate download spectrograms predict export results rerun kaggle".split()
    assert all(name in out for name in names)


# What a user may get wrong: the arguments, and what the sentence must say. In the working directory
# are a file x.edf, which is no recording, and a folder called `folder`.
MISTAKES = {
    "": "COMMAND",
    "prdict x.edf": "prdict",
    "predict missing.edf": "missing.edf: no file there; wanted a recording",
    "predict folder": "folder: no recording in this folder; wanted files of .edf, .bdf",
    "predict folder x.edf": "folder: no recording in this folder",
    "predict x.edf broken/run.json --out x.edf": "x.edf is no writable folder",
    "predict x.edf --report e.htm": "--report e.htm; wanted a file.html",
    "predict x.edf --edf x.edf": "x.edf is the recording itself",
    "predict x.edf --report r.html --step 11": "--report with --step 11; wanted 10 or less",
    "predict --report r.html": "--report r.html is that of a recording",
    "predict x.edf --report p.html --edf p.html": "--edf p.html; wanted a file.edf",
    "predict x.edf --out x.eeg": "--out x.eeg; wanted a file.csv",
    "predict x.edf --edf copy.bdf": "--edf copy.bdf; wanted a file.edf",
    "predict x.edf": "EDF",
    "predict x.edf --out missing/dir/p.csv": "no folder missing/dir",
    "predict x.edf --out x.edf/p.csv": "no folder x.edf",
    "predict x.edf --out folder": "folder: a folder; wanted the name of a file",
    "predict --run folder": "folder/run.json: not found",
    "predict --run missing": "missing/run.json: not found",
    "predict --data folder": "folder: no train.csv or test.csv",
    "predict --split both": "both",
    "predict --run all": "released/blend.json; the others lie in models/released of a checkout",
    "predict --raters 0": "--raters: 0: wanted a number from 1 up",
    "predict --unit uV --data good": "--unit uV is that of a recording",
    "predict --step 2 --data good": "--step 2 is that of a recording",
    "predict --events e.tsv": "--events e.tsv is that of a recording",
    "predict x.edf --events x.edf": "x.edf is the recording itself",
    "predict x.edf --events p.csv --out p.csv": "--events p.csv; wanted a file.tsv",
    "predict x.edf --events e.tsv --step 11": "--step 11; wanted 10 or less",
    "predict x.edf --step 0": "wanted a number from 1 up",
    "predict --data good": "good/train.csv: no table",
    "predict --data good --split test": "good/test.csv: not found",
    "predict x.edf --out pipe": "pipe: no regular file",
    "predict x.edf --out=": "a folder; wanted the name of a file",
    "simulate --out=": "wanted the name of a folder",
    "simulate --out new --patients -1": "--patients: -1: wanted a number from 1 up",
    "simulate --out new --patients 65537": "wanted a number from 1 up to 65,536",
    "simulate --out new --seed 4294967296": "wanted a number from 0 up to 4,294,967,295",
    "simulate --out new --seed " + "9" * 5000: "--seed: 99999999999999999999: wanted a number",
    "simulate --out new --jobs 100000": "wanted a number from 1 up to 1,024",
    "spectrograms --mels 100000": "wanted a number from 1 up to 512",
    "spectrograms --frames 100000": "wanted a number from 1 up to 10,000",
    "spectrograms --mels 1.5": "--mels: 1.5: wanted a number",
    "spectrograms --data good": "good/train.csv: no table",
    "kaggle build --owner A/B": "owner 'A/B', wanted small letters, digits and hyphens",
    "results --run pipes": "pipes/run.json: not the description of a run (a folder or a pipe)",
    "export --out model.h5": "model.h5: wanted a .onnx or .keras file",
    "export --out missing/model.onnx": "no folder missing",
    "export --out folder --run folder": "folder: wanted a .onnx or .keras file",
    "export": "--out",
    "results --run folder": "folder/run.json: not found",
    "results --run broken": "broken/run.json: not the description of a run",
    "predict x.edf --data good": "a recording or --data, not both: x.edf",
    "results": "make notebooks",
    "rerun": "RUN",
    "rerun folder": "folder/run.json: not found",
    "simulate --out x.edf": "x.edf is no writable folder",
    "simulate --out new --patients 0": "--patients: 0: wanted a number from 1 up",
    "simulate --out new --patients many": "--patients: many: wanted a number",
    "simulate --out new --seed -1": "--seed: -1: wanted a number from 0 up",
    "simulate --out new --jobs 0": "--jobs: 0: wanted a number from 1 up",
    "spectrograms --mels 0": "--mels: 0: wanted a number from 1 up",
    "spectrograms --frames -3": "--frames: -3: wanted a number from 1 up",
    "spectrograms --data missing": "missing: no train.csv or test.csv",
    "spectrograms --out x.edf/new": "x.edf is no writable folder",
    "download everything": "everything",
    "download samples --out x.edf": "x.edf is no writable folder",
    "kaggle check": "check",
    "kaggle push": "run `kaggle build` first",
    "kaggle build --run folder": "folder/run.json: not found",
    "kaggle build --out x.edf": "x.edf is no writable folder",
}

# One process for all: what it prints and whether TensorFlow was imported, for each mistake.
RUN_ALL = """
import contextlib, io, json, sys
from hmsutils.__main__ import main
for line in json.load(sys.stdin):
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            main(line.split())
        status = 0
    except SystemExit as error:
        status = error.code
    print("ANSWER", json.dumps([line, status, said.getvalue(), "tensorflow" in sys.modules]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{arguments: (exit status, stderr, whether TensorFlow was imported)}, from an empty home."""
    home = tmp_path_factory.mktemp("home")
    (home / "folder").mkdir()
    (home / "x.edf").write_text("no recording")
    (home / "broken").mkdir()
    (home / "broken" / "run.json").write_text("{}")
    (home / "good").mkdir()
    (home / "good" / "train.csv").touch()
    (home / "pipes").mkdir()
    os.mkfifo(home / "pipes" / "run.json")
    os.mkfifo(home / "pipe")
    env = {"PYTHONPATH": str(REPOSITORY), "HMS_HOME": str(home)}
    out = subprocess.run(
        [sys.executable, "-c", RUN_ALL], input=json.dumps(list(MISTAKES)), env=env, cwd=home,
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    there = sorted(path.name for path in home.iterdir())
    assert there == ["broken", "folder", "good", "pipe", "pipes", "x.edf"]  # and no more
    lines = [json.loads(line[7:]) for line in out.splitlines() if line.startswith("ANSWER ")]
    return {line: answer for line, *answer in lines}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_answered_with_one_sentence_before_tensorflow_is_imported(answers, arguments):
    status, said, tensorflow = answers[arguments]
    assert status == 2 and not tensorflow
    assert said.startswith("hmsutils") and said.count("\n") == 1 and said.endswith("\n")
    assert MISTAKES[arguments] in said and "Traceback" not in said


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(__main__.os, "access", lambda *_: False)  # the superuser may write anywhere
    for arguments in ("predict --out p.csv", "export --out m.onnx", "simulate --out new"):
        with pytest.raises(SystemExit, match="2"):
            __main__.main(arguments.split())
        assert "writable" in capsys.readouterr().err


def test_a_process_ends_with_status_2_and_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "hmsutils", "predict", "missing.edf"]
    env = {"PYTHONPATH": str(REPOSITORY)}
    answer = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 2 and answer.stdout == "" and answer.stderr.count("\n") == 1


def test_an_error_in_the_program_is_one_sentence_too_unless_its_traceback_is_wanted(
    monkeypatch, capsys
):
    monkeypatch.setattr(__main__, "find_runs", lambda: 1 / 0)
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["results"])
    said = capsys.readouterr().err
    assert said == "hmsutils: ZeroDivisionError (HMS_TRACEBACK=1 shows where): division by zero\n"
    monkeypatch.setenv("HMS_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        __main__.main(["results"])


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs, the last two of one name and on other windows than the first."""

    class Table:
        def __init__(self, runs):
            self.runs = runs

        def round(self, _):
            return self

        def to_string(self):
            return " ".join(run.folder.name for run in self.runs)

    from hmsutils import evaluation

    monkeypatch.setattr(evaluation, "results", Table)
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    for i, name in enumerate("abc"):
        folder = tmp_path / "models" / "runs" / name
        folder.mkdir(parents=True)
        description = {"name": "wavenet", "config": {"folds": [0]}, "temperature": 1.0}
        description |= {"data": {"fingerprint": "new" if i else "old"}}
        description |= {"metrics": {"all": {"KL": 1.0}}, "prior_mean": {"0": [1, 0, 0, 0, 0, 0]}}
        (folder / "run.json").write_text(json.dumps(description))
    return tmp_path / "models" / "runs"


def test_results_are_those_of_the_newest_data_or_of_all_named_runs(runs, capsys):
    __main__.main(["results"])
    assert capsys.readouterr().out == "b c\n"
    __main__.main(["results", "--run", *(str(runs / name) for name in "abc")])
    assert capsys.readouterr().out == "a b c\n"


def test_predict_never_overwrites_what_it_reads(competition, tmp_path, capsys):
    edf, same = tmp_path / "r.edf", tmp_path / "R.edf"  # as where case does not matter
    edf.write_bytes(b"an EEG")
    os.link(edf, same)
    data = ["--data", str(competition.root)]
    inputs = [competition.root / "test.csv", next(competition.root.glob("test_eegs/*"))]
    recording = [str(edf), "--edf", str(same)]
    for out, more in [(edf, recording), *((path, data) for path in inputs)]:
        before = out.read_bytes()
        with pytest.raises(SystemExit) as error:
            __main__.main(["predict", *more, *(["--out", str(out)] if more is data else [])])
        assert error.value.code == 2 and out.read_bytes() == before
        assert "name another file" in capsys.readouterr().err


def outputs(*arguments):
    """{recording: names of its outputs} of a command."""
    found = __main__._outputs(__main__._parser().parse_args(["predict", *arguments]))
    return {str(path): [file.name for file in files.values()] for path, files in found.items()}


def test_outputs_of_a_folder_are_no_files_of_the_user_and_what_is_not_read_is_said(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("x.edf", "x.csv", "y.bdf", "y_annotated.bdf", ".z.edf", "notes.txt"):
        (tmp_path / name).touch()
    os.symlink("x.edf", "a.edf")
    os.symlink("gone.edf", "annex.edf")
    wanted = {"x.edf": ["x_probabilities.csv", "x_events.tsv", "x_report.html"]}
    wanted["x.edf"] += ["x_annotated.edf"]
    wanted["y.bdf"] = [x.replace("x_", "y_").replace("edf", "bdf") for x in wanted["x.edf"]]
    options = ["--out", ".", "--events", ".", "--report", ".", "--edf", "."]
    assert outputs(".", *options) == wanted
    said = capsys.readouterr().err
    for part in ("1 folders (first: sub)", "1 links to nothing (first: annex.edf)"):
        assert part in said
    assert "1 annotated copies (first: y_annotated.bdf)" in said and "1 of 3 names" in said


def test_of_bids_derivatives_are_not_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in (".", "sub-1/eeg", "derivatives/sub-1/eeg", ".git"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in ("sub-1_eeg.edf", "other.edf", "sub-1_events.tsv"):
            (Path(folder) / name).touch()
    Path("sub-1_eeg.edf").unlink()
    assert outputs(".") == {"sub-1/eeg/sub-1_eeg.edf": ["sub-1_eeg_probabilities.csv"]}
    assert "not read: 2 files not named *_eeg (first: other.edf)" in capsys.readouterr().err


def test_the_page_offers_recordings_folders_and_competitions(competition, tmp_path, monkeypatch):
    pytest.importorskip("hmsutils.app", reason="the page needs Gradio")
    served = []
    monkeypatch.setattr(
        "hmsutils.app.serve", lambda *args, **options: served.append(args + (options,))
    )
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    files = tmp_path / "files"
    files.mkdir()
    for name in ("a.edf", "b.bdf", "notes.txt"):
        (files / name).touch()
    arguments = [str(files / "a.edf"), str(competition.root), str(files)]
    __main__.main(["app", *arguments, "--port", "8000", "--no-browser"])
    ((offered, labels, options),) = served
    assert offered == {
        str(files / "a.edf"): files / "a.edf",
        str(competition.root): find_competition(competition.root, verbose=False),
        str(files / "b.bdf"): files / "b.bdf",
    }
    assert labels == tmp_path / "data" / "labels" and options == {"port": 8000, "browser": False}
    __main__.main(["app", str(files)])
    assert list(served[1][0]) == ["a.edf", "b.bdf"] and served[1][2]["browser"]
    __main__.main(["app"])
    assert served[2][0] == {}
    (tmp_path / "data" / "demo").mkdir(parents=True)
    shutil.copytree(competition.root, tmp_path / "data" / "demo", dirs_exist_ok=True)
    __main__.main(["app"])
    assert [place.kind for place in served[3][0].values()] == ["simulated"]
