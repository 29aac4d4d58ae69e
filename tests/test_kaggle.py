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
from hmsutils.competition import PREDICTION_COLUMNS, SLUG, TARGET_COLUMNS
from hmsutils.runs import FoldFolder

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
    wanted += (package / "page").iterdir()
    assert packed == {str(path.relative_to(REPOSITORY)) for path in wanted}
    assert "hmsutils/released/mobilenet_v3_large+wavenet/fold0/model.weights.h5" in packed
    assert not any("replay" in name for name in packed)


def test_the_weights_are_whole_runs_without_what_only_their_training_needed(built):
    for run in RELEASED:
        with ZipFile(built / "weights" / f"{run.folder.name}.zip") as packed:
            wanted = {"run.json", "history.csv", "oof.parquet", "fold0/model.weights.h5"}
            assert set(packed.namelist()) == wanted
            assert packed.read("fold0/model.weights.h5") == run.weights(0).read_bytes()


def test_notebooks_go_up_unchanged_and_find_all_they_need_attached(built):
    for name in kaggle.KERNELS:
        code = (built / name / f"{name}.ipynb").read_bytes()
        assert code == (REPOSITORY / "notebooks" / f"{name}.ipynb").read_bytes()
    second, third, fourth = (metadata(built / name) for name in kaggle.KERNELS)
    for kernel in (second, third, fourth):
        assert kernel["competition_sources"] == [SLUG]
        assert kernel["is_private"] and not kernel["enable_internet"]
        assert kernel["enable_gpu"] and kernel["machine_shape"] == "NvidiaTeslaT4"
    assert third["kernel_sources"] == [second["id"]] and not second["kernel_sources"]
    assert fourth["kernel_sources"] == [third["id"]]
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
    "machine_shape 'NvidiaTeslaP100', wanted NvidiaTeslaT4": (
        "02_backbones", {"machine_shape": "NvidiaTeslaP100"},
    ),
    "machine_shape None, wanted": ("04_inference", {"machine_shape": None}),
    "wanted x.ipynb": ("04_inference", {"code_file": "x.ipynb"}),
}  # fmt: skip


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
    for run in RELEASED:
        folder = shutil.copytree(run, output / run.folder.name)
        description = json.loads((folder / "run.json").read_text())
        description["data"] |= {"data_id": records.data_id(competition), "fingerprint": "same"}
        description["data"]["windows"] = 1
        (folder / "run.json").write_text(json.dumps(description))
    worse = pd.read_parquet(output / RELEASED[0].folder.name / "oof.parquet")
    worse[list(PREDICTION_COLUMNS)] = 1 / 6
    worse.to_parquet(output / RELEASED[0].folder.name / "oof.parquet")
    assert [run.folder for run in inference.default_runs()] == [output / RELEASED[1].folder.name]


def test_without_train_csv_attached_runs_that_are_in_no_blend_do_not_predict(session):
    output = session.parent / "input" / "hms-03-wavenet-concat" / "models" / "runs"
    for name in ("in-blend", "another"):
        shutil.copytree(RELEASED[0], output / name)
    runs.write_blend(output, {"in-blend": 0.7}, kl=0.5)
    found = {run.folder.name: weight for run, weight in inference.default_runs().items()}
    assert found == {"in-blend": 0.7} | {run.folder.name: 1.0 for run in RELEASED}


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
    fold = FoldFolder(attached, 0)
    fold.folder.mkdir(parents=True)
    fold.write_last(Path.touch, windows)
    fold.write_history([{"seconds": 1.0}])
    fold.finish({"device": "Tesla T4"})
    monkeypatch.setenv("HMS_KAGGLE_INPUT", str(tmp_path))
    monkeypatch.setattr(training, "train_fold", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(training, "_write_run", lambda config, folder, windows: folder)
    for _ in range(2):  # what is there already stays as it is
        (folder,) = training.train([settings], windows, {}, runs_dir=tmp_path / "working")
        assert FoldFolder(folder, 0).done == {"fold": 0, "device": "Tesla T4"}
        assert folder == tmp_path / "working" / attached.name
        fold.finish({"device": "another"})


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
    """Instead of Kaggle's client: answers, and remembers what it was asked to change."""

    def __init__(self, *there, **states):
        self.there, self.states, self.done = set(there), states, []

    def __call__(self, *command):
        what, action, *rest = command[3:]
        name = Path(rest[-1]).name
        if action == "status" and what == "kernels":
            if name not in self.states:
                raise RuntimeError("404 Client Error: Not Found")
            said = f'{rest[0]} has status "KernelWorkerStatus.{self.states[name].upper()}"'
            if self.states[name] == "error":  # the message of a failure may look like one
                raise RuntimeError(f'{said}\nFailure message: "Your notebook: error: disk"')
            return said
        if action == "status" and rest[0] not in self.there:
            raise RuntimeError("404")
        if action != "status":
            self.done.append(f"{what} {action} {name}")
            self.there.add(f"some-one/hms-{name}")
        return "ready" if what == "datasets" else "Kernel version 3 successfully pushed."


@pytest.fixture
def pushed(built, tmp_path, monkeypatch):
    """push(*names, **states of kernels) → (what was changed, kernel_sources of the first)."""
    out = shutil.copytree(built, tmp_path / "out")
    monkeypatch.setattr(kaggle, "find_spec", lambda name: name)

    def push(*names, **states):
        client = Client("some-one/hms-weights", **states)
        monkeypatch.setattr(kaggle, "_run", client)
        kaggle.push(out, names)
        assert kaggle.validate(out) == "some-one"
        return client.done, metadata(out / (names or kaggle.KERNELS)[0])["kernel_sources"]

    return push


SECOND, THIRD, FOURTH = (kaggle.slugify(kaggle.TITLES[name]) for name in kaggle.KERNELS)


def test_data_sets_are_pushed_before_the_only_notebook_that_can_start(pushed, capsys):
    done, sources = pushed()
    assert done == [
        "datasets create package", "datasets version weights", "kernels push 02_backbones",
    ] and sources == []  # fmt: skip
    assert "`kaggle push 02_backbones` if its log says that" in capsys.readouterr().out


def test_the_next_session_gets_what_the_last_one_has_left(pushed):
    for state in ("complete", "error", "cancel_acknowledged"):
        assert pushed("02_backbones", **{SECOND: state})[1] == [f"some-one/{SECOND}"]
        again = pushed("03_wavenet_concat", **{SECOND: "complete", THIRD: state})[1]
        assert again == [f"some-one/{SECOND}", f"some-one/{THIRD}"]
    for state in ("running", "queued"):
        with pytest.raises(RuntimeError, match=f"{SECOND} is {state}; push it when it has ended"):
            pushed("02_backbones", **{SECOND: state})


@pytest.mark.parametrize("state", ["absent", "running", "error"])
def test_notebook_3_waits_for_notebook_2(pushed, state):
    states = {} if state == "absent" else {SECOND: state}
    with pytest.raises(RuntimeError, match=f"{SECOND}, which is {state}, complete; push that"):
        pushed("03_wavenet_concat", **states)


def test_notebook_4_gets_your_own_weights_where_there_are_any(pushed, capsys):
    ended = {SECOND: "complete", THIRD: "complete", FOURTH: "complete"}
    assert pushed("04_inference", **ended) == (["kernels push 04_inference"], [f"some-one/{THIRD}"])
    command = f"-f submission.csv -k some-one/{FOURTH} -v 3 -m hmsutils"
    assert f"kaggle competitions submit {SLUG} {command}" in capsys.readouterr().out
    assert pushed("04_inference") == (["kernels push 04_inference"], [])
    assert "which is absent, and predicts with the weights of the data" in capsys.readouterr().out


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
    client = tmp_path / "kaggle" / "__main__.py"
    client.write_text("raise SystemExit('Authentication required to call the Kaggle API.')")
    monkeypatch.setattr(kaggle, "find_spec", lambda name: name)
    with pytest.raises(RuntimeError, match="kernels status .* failed:\nAuthentication required"):
        kaggle.push(built, ["03_wavenet_concat"])


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
        assert sent[-1].enable_gpu and sent[-1].machine_shape == "NvidiaTeslaT4"
        assert sent[-1].kernel_data_sources == metadata(built / name)["kernel_sources"]
    assert "does not resolve" not in capsys.readouterr().out


def test_the_runtime_counts_the_second_of_two_rounds_of_a_full_chunk(competition, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        inference, "predict_windows", lambda *args, **options: sizes.append(len(args[2]))
    )
    clock = iter([0.0, 100.0, 132.0])  # the first round starts, the second starts, it ends
    monkeypatch.setattr(kaggle, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert kaggle.estimate_runtime([], competition).startswith(
        "0.500 s per EEG: 10,000 in 1.39 h of"
    )
    assert sizes == [64, 64]
