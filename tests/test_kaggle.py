"""What is built for Kaggle is valid by its rules and its client's; its mounts are searched.

`.ci/kaggle_replay.py`, which replays a session, is imported from its folder (pyproject.toml).
"""

import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import kaggle_replay
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.version import Version
from requests.exceptions import HTTPError

from hmsutils import config, files, inference, kaggle, records, runs, training
from hmsutils.competition import SLUG, TARGET_COLUMNS

RELEASED = runs.released_runs("*wavenet*")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("kaggle")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        assert kaggle.build(out, "some-one", RELEASED) == "some-one"
    return out


@pytest.fixture(params=("new", "old"))
def session(built, tmp_path, monkeypatch, request):
    """A fake Kaggle session's working directory, inputs mounted."""
    (tmp_path / "competition").mkdir()
    (tmp_path / "competition" / "test.csv").write_text("eeg_id,spectrogram_id,patient_id\n7,1,1\n")
    new = request.param == "new"
    kaggle_replay.mount(built, tmp_path / "competition", tmp_path / "input", new)
    monkeypatch.setenv("HMS_KAGGLE_INPUT", str(tmp_path / "input"))
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    return tmp_path / "working"


def metadata(folder):
    return json.loads(next(folder.glob("*-metadata.json")).read_text())


def test_the_wheel_holds_every_module_and_the_default_model_and_nothing_else(built):
    (wheel,) = (built / "package").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = REPOSITORY / "hmsutils"
    wanted = [*package.rglob("*.py"), *(package / "released").rglob("*.*")]
    assert packed == {str(path.relative_to(REPOSITORY)) for path in wanted}
    assert "hmsutils/released/mobilenet_v3_large+wavenet/fold0/best.weights.h5" in packed
    assert not any("replay" in name for name in packed)


def test_the_weights_are_whole_runs_without_what_only_their_training_needed(built):
    for run in RELEASED:
        with ZipFile(built / "weights" / f"{run.folder.name}.zip") as packed:
            wanted = {"run.json", "history.csv", "oof.parquet", "fold0/best.weights.h5"}
            assert set(packed.namelist()) == wanted
            assert packed.read("fold0/best.weights.h5") == run.weights(0).read_bytes()


def test_notebooks_go_up_unchanged_and_find_all_they_need_attached(built):
    for name in kaggle.KERNELS:
        code = (built / name / f"{name}.ipynb").read_bytes()
        assert code == (REPOSITORY / "notebooks" / f"{name}.ipynb").read_bytes()
    second, third, fourth = (metadata(built / name) for name in kaggle.KERNELS)
    for kernel in (second, third, fourth):
        assert kernel["competition_sources"] == [SLUG]
        assert kernel["is_private"] and not kernel["enable_internet"]
    assert third["kernel_sources"] == [second["id"]] and not second["kernel_sources"]
    assert second["enable_gpu"] and third["enable_gpu"] and not fourth["enable_gpu"]
    assert "keras/resnetv2/keras/resnet50_v2_imagenet/2" in second["model_sources"]
    assert len(third["model_sources"]) == 4 and not fourth["model_sources"]
    datasets = [metadata(built / name)["id"] for name in kaggle.DATASETS]
    assert fourth["dataset_sources"] == datasets and third["dataset_sources"] == datasets[:1]


BROKEN = {
    "owner 'Some One', wanted small letters": ("package", {"id": "Some One/hms-package"}),
    "id 'some-one/hms', wanted some-one/hms-weights": ("weights", {"id": "some-one/hms"}),
    "id 'other/hms-weights', wanted some-one": ("weights", {"id": "other/hms-weights"}),
    "wanted 6 to 50 characters": ("package", {"title": "HMS", "id": "some-one/hms"}),
    "licences .*, wanted MIT": ("package", {"licenses": [{"name": "MIT"}, {"name": "CC0-1.0"}]}),
    "wanted x.ipynb": ("04_inference", {"code_file": "x.ipynb"}),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_kaggle_would_refuse_is_refused_before(built, tmp_path, message):
    out = shutil.copytree(built, tmp_path / "out")
    name, change = BROKEN[message]
    path = next((out / name).glob("*-metadata.json"))
    path.write_text(json.dumps(metadata(out / name) | change))
    with pytest.raises(ValueError, match=message):
        kaggle.validate(out)


def test_builds_that_cannot_be_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="kaggle build"):
        kaggle.validate(tmp_path)
    same = shutil.copytree(RELEASED[-1], tmp_path / "copy" / RELEASED[-1].folder.name)
    with pytest.raises(ValueError, match="2 runs, but the names .*wavenet.*rename"):
        kaggle.build(tmp_path / "out", runs=[RELEASED[-1], same])
    assert not (tmp_path / "out").exists()  # an earlier build would have stayed
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no checkout"):
        kaggle.build(tmp_path)


def test_runs_and_competition_are_found_on_the_mounts(session):
    assert files.find_competition().kind == "kaggle"
    found = inference.default_runs()
    assert [run.folder.name for run in found] == [run.folder.name for run in RELEASED]
    for run, released in zip(found, RELEASED, strict=True):
        assert run.weights(0).read_bytes() == released.weights(0).read_bytes()


def test_the_best_run_of_an_attached_notebook_goes_before_the_attached_weights(session):
    output = session.parent / "input" / "hms-03-wavenet-concat" / "models" / "runs"
    competition = files.find_competition()
    (competition.root / "train.csv").write_text("eeg_id\n7\n")
    for run, kl in zip(RELEASED, (0.9, 0.4), strict=True):
        folder = shutil.copytree(run, output / run.folder.name)
        description = json.loads((folder / "run.json").read_text())
        description["metrics"]["all"]["KL"] = kl
        description["data"] |= {"data_id": records.data_id(competition), "fingerprint": "same"}
        description["data"]["windows"] = 1
        (folder / "run.json").write_text(json.dumps(description))
    assert [run.folder for run in inference.default_runs()] == [output / RELEASED[1].folder.name]


def test_the_prior_mean_is_a_valid_submission_that_needs_no_eeg(session):
    submission = inference.prior_submission(RELEASED, files.find_competition())
    assert list(submission["eeg_id"]) == [7]
    means = np.mean([run.prior_mean[0] for run in RELEASED], axis=0)
    np.testing.assert_allclose(submission.iloc[0, 1:], means, atol=1e-5)


def test_a_finished_run_of_an_attached_notebook_is_not_trained_again(tmp_path, monkeypatch):
    settings = replace(config.PROFILES["smoke"], towers=("wavenet",))
    columns = {"eeg_id": 7, "eeg_offset_s": 0.0, "fold": 0} | dict.fromkeys(TARGET_COLUMNS, 1 / 6)
    windows = pd.DataFrame(columns, index=[0])
    output = tmp_path / "hms-02-backbones" / "models" / "runs"
    attached = training.run_folder(settings, windows, output)
    (attached / "fold0").mkdir(parents=True)
    for name in ("run.json", "fold0/done.json"):
        (attached / name).write_text("{}")
    monkeypatch.setenv("HMS_KAGGLE_INPUT", str(tmp_path))
    monkeypatch.setattr(training, "train_fold", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(training, "_finish", lambda config, windows, folder, *_, **__: folder)
    for _ in range(2):  # what is there already stays as it is
        (folder,) = training.train([settings], windows, {}, runs_dir=tmp_path / "working")
        assert (folder / "fold0" / "done.json").read_text() == "{}"
        assert folder == tmp_path / "working" / attached.name
        (attached / "fold0" / "done.json").write_text("other")


def test_the_first_cell_installs_the_wheel_where_the_package_is_missing(session):
    cells = {
        next(cell for cell in (REPOSITORY / "notebooks" / name).read_text().split("# %%")
             if "find_spec" in cell)
        for name in ("01_spectrograms.py", *(f"{name}.py" for name in kaggle.KERNELS))
    }  # fmt: skip
    (cell,) = cells
    calls = "import subprocess; subprocess.check_call = lambda command: print(command[-1].name)"
    command = [sys.executable, "-c", f"{calls}\n{cell}"]
    env = {"HMS_KAGGLE_INPUT": str(session.parent / "input"), "PYTHONPATH": str(REPOSITORY)}
    silent = subprocess.run(command, env=env, cwd=session, capture_output=True, text=True)
    assert (silent.stdout, silent.stderr) == ("", "")
    command.insert(1, "-S")  # without site-packages, where this package may be installed
    bare = subprocess.run(command, env=env | {"PYTHONPATH": ""}, cwd=session, capture_output=True,
                          text=True)  # fmt: skip
    assert bare.stdout.startswith("hmsutils-") and bare.stderr == ""


def test_the_replay_has_the_oldest_version_that_the_project_allows_of_everything():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = (REPOSITORY / "requirements-oldest.txt").read_text().splitlines()
    pins = dict(line.split("#")[0].strip().split("==") for line in lines if "==" in line)
    for allowed in map(Requirement, project["dependencies"]):
        (bound,) = allowed.specifier
        name = "tensorflow-cpu" if allowed.name == "tensorflow" else allowed.name
        assert Version(bound.version) == Version(pins[name]), name


class Client:
    """Instead of Kaggle's client: answers, and remembers what it was asked."""

    def __init__(self, *there):
        self.there, self.asked = set(there), []

    def __call__(self, *command):
        arguments = command[3:]
        self.asked.append(" ".join(arguments[:2]) + " " + Path(arguments[-1]).name)
        if arguments[1] == "create":
            self.there.add(f"some-one/hms-{Path(arguments[-1]).name}")
        if arguments[1] == "status" and arguments[2] not in self.there:
            raise RuntimeError("404")
        return "ready"


def test_data_sets_are_pushed_before_the_notebooks_that_need_them(built, monkeypatch):
    client = Client("some-one/hms-weights")
    monkeypatch.setattr(kaggle, "_run", client)
    monkeypatch.setattr(kaggle, "find_spec", lambda name: name)
    kaggle.push(built)
    done = [step for step in client.asked if "status" not in step]
    assert done == [
        "datasets create package", "datasets version weights", "kernels push 02_backbones",
        "kernels push 04_inference",
    ]  # fmt: skip
    client.asked.clear()
    kaggle.push(built, ["03_wavenet_concat"])
    assert client.asked == ["kernels push 03_wavenet_concat"]


def test_a_push_that_cannot_work_says_what_to_do(built, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="05_search.*; wanted your user name.*and some of package"):
        kaggle.push(built, ["05_search"])
    monkeypatch.setattr(kaggle, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install kaggle"):
        kaggle.push(built)
    (tmp_path / "kaggle").mkdir()
    (tmp_path / "kaggle" / "__init__.py").touch()
    (tmp_path / "kaggle" / "__main__.py").write_text("print('Dataset creation error: no token')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"-m kaggle datasets create` failed:\n.*no token"):
        kaggle._run(*kaggle._CLIENT, "datasets", "create")


@pytest.fixture
def official(monkeypatch, tmp_path, no_network):
    """Kaggle's own client, its network part replaced; what it would have sent."""
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLE_USERNAME", "some-one")
    monkeypatch.setenv("KAGGLE_KEY", "none")
    api = pytest.importorskip("kaggle", reason="Kaggle's client is not installed").api
    sent = []

    class Web:
        """Any service of the site: remembers the request, answers that all is well."""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __getattr__(self, name):
            return self

        def __call__(self, request):
            sent.append(request)
            return SimpleNamespace(error=None)

    def status(self, dataset):
        raise HTTPError("404")

    api.authenticate()
    for name, stand_in in {
        "build_kaggle_client": lambda self: Web(),
        "dataset_status": status,
        "_upload_blob": lambda self, path, *_: Path(path).name,
    }.items():
        monkeypatch.setattr(type(api), name, stand_in)
    return api, sent


def test_kaggles_own_client_takes_the_folders_and_sends_every_file(built, official, capsys):
    api, sent = official
    for name in kaggle.DATASETS:
        api.dataset_create_new(str(built / name), quiet=True)
        files_sent = {file.token for file in sent[-1].files}
        there = {path.name for path in (built / name).iterdir()}
        assert files_sent == there - {"dataset-metadata.json"}
    for name in kaggle.KERNELS:
        api.kernels_push(str(built / name))
        assert sent[-1].slug == metadata(built / name)["id"]
        assert not sent[-1].enable_internet and json.loads(sent[-1].text)["cells"]
    assert "does not resolve" not in capsys.readouterr().out


def test_the_runtime_counts_the_second_of_two_rounds_of_a_full_chunk(competition, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        inference, "predict_windows", lambda models, c, windows, split: sizes.append(len(windows))
    )
    clock = iter([0.0, 100.0, 132.0])  # the first round starts, the second starts, it ends
    monkeypatch.setattr(kaggle, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert kaggle.estimate_runtime([], competition).startswith(
        "0.500 s per EEG: 10,000 in 1.39 h of"
    )
    assert sizes == [64, 64]
