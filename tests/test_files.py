"""Where the competition's files are looked for, and in which order."""

import pytest

from hmsutils import competition as ground
from hmsutils import files


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An empty project with no competition anywhere."""
    for mark in ("hmsutils", "notebooks", "data"):
        (tmp_path / mark).mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("HMS_KAGGLE_INPUT", str(tmp_path / "kaggle"))
    monkeypatch.delenv("HMS_DATA_DIR", raising=False)
    monkeypatch.delenv("HMS_HOME", raising=False)
    return tmp_path


def put(folder, name="train.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    return folder


def test_places_are_tried_in_the_documented_order(bare, monkeypatch, capsys):
    raw = put(bare / "data" / "raw")
    assert files.find_competition().root == raw
    named = put(bare / "elsewhere", "test.csv")
    monkeypatch.setenv("HMS_DATA_DIR", str(named))
    assert files.find_competition().root == named
    old = put(bare / "kaggle" / ground.SLUG)
    assert files.find_competition() == ground.Competition(
        old, "kaggle", "Kaggle used to mount it there"
    )
    new = put(bare / "kaggle" / "competitions" / ground.SLUG)
    assert files.find_competition().root == new
    assert files.find_competition(raw).kind == "local"
    printed = capsys.readouterr().out
    assert "data/raw (data/raw holds the files)" in printed and "HMS_DATA_DIR names it" in printed


@pytest.mark.parametrize("inside", [ground.SLUG, f"{ground.SLUG}/{ground.SLUG}", "hms/data"])
@pytest.mark.parametrize("table", ["train.csv", "test.csv"])
def test_what_unpacking_nested_is_found_and_said(bare, capsys, inside, table):
    raw = bare / "data" / "raw"
    there = put(raw / inside, table)
    (there / "train_eegs").mkdir()
    assert files.find_competition().root == there
    printed = capsys.readouterr().out
    assert (
        f"Competition: local, data/raw/{inside} (data/raw holds the files, in a folder" in printed
    )
    assert files.find_competition(raw).root == there
    put(raw)
    assert files.find_competition().root == raw


def test_of_two_nested_folders_none_is_taken(bare, monkeypatch):
    one, other = (put(bare / "data" / "raw" / name) for name in "ab")
    with pytest.raises(ValueError, match=f"tables in {one} and in {other}; name one in HMS_DATA"):
        files.find_competition()
    monkeypatch.setenv("HMS_DATA_DIR", str(other))
    assert files.find_competition().root == other


def test_files_that_are_no_competition_are_named_where_one_is_simulated(bare, monkeypatch, capsys):
    put(bare / "data" / "raw" / "train_eegs", "1.parquet")
    put(bare / "data" / "raw", f"{ground.SLUG}.zip")
    monkeypatch.setattr("hmsutils.simulate.simulate_competition", put)
    files.find_competition()
    said = f"data/raw holds {ground.SLUG}.zip, train_eegs, but neither train.csv nor test.csv"
    assert said in capsys.readouterr().out


def test_a_simulated_folder_is_known_wherever_it_lies(bare):
    folder = put(bare / "data" / "raw")
    put(folder, ground.SIMULATION_FILE)
    assert files.find_competition().kind == "simulated"


def test_a_folder_without_tables_is_refused_with_the_remedy(bare, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no train.csv or test.csv there.*simulated"):
        files.find_competition(bare / "nothing")
    monkeypatch.setenv("HMS_DATA_DIR", str(bare / "nothing"))
    with pytest.raises(FileNotFoundError, match="HMS_DATA_DIR"):
        files.find_competition()


def test_without_files_a_competition_is_simulated_once(bare, monkeypatch):
    calls = []

    def simulate(root):
        calls.append(root)
        put(root)

    monkeypatch.setattr("hmsutils.simulate.simulate_competition", simulate)
    for _ in range(2):
        found = files.find_competition()
        assert found.kind == "simulated" and found.root == bare / "data" / "demo"
    assert len(calls) == 1


def test_a_demo_from_which_files_were_deleted_is_completed_with_its_own_settings(bare, monkeypatch):
    demo, calls = put(bare / "data" / "demo"), []
    (demo / ground.SIMULATION_FILE).write_text('{"n_patients": 2, "seed": 7, "files": 2}')
    put(demo / "train_eegs", "1.parquet")

    def simulate(root, **settings):
        calls.append(settings)
        put(demo / "train_spectrograms", "2.parquet")

    monkeypatch.setattr("hmsutils.simulate.simulate_competition", simulate)
    for _ in range(2):
        assert files.find_competition().root == demo
    assert calls == [{"n_patients": 2, "seed": 7}]


def test_a_half_simulated_folder_is_no_competition(bare):
    raw = put(bare / "data" / "raw", "test.csv")  # train.csv is written last
    put(raw, ground.SIMULATION_FILE)
    assert files.find_competition(simulate=False) is None


@pytest.mark.parametrize("text", ["", '{"seed": 1', "[1, 2]", "3"])
def test_a_damaged_mark_says_what_to_do(bare, text):
    demo = put(bare / "data" / "demo")
    (demo / ground.SIMULATION_FILE).write_text(text)
    with pytest.raises(ValueError, match="simulation.json: damaged.*delete this folder"):
        files.find_competition()


def test_without_files_nothing_is_simulated_where_that_is_not_wanted(bare):
    put(bare / "data" / "demo")
    assert files.find_competition(simulate=False) is None
    raw = put(bare / "data" / "raw")
    assert files.find_competition(simulate=False).root == raw


@pytest.mark.parametrize("name", ["__MACOSX", ".ipynb_checkpoints", ".hmsutils-part-1"])
def test_tables_in_folders_of_programs_are_no_competition(name, tmp_path):
    for folder in ("hms", name):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.csv").touch()
    (tmp_path / "test.csv").mkdir()  # a folder is no table
    assert files.find_competition(tmp_path).root == (tmp_path / "hms").resolve()
