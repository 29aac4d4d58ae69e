"""Downloads from a server on this machine: whole, cut off, damaged and refused."""

import base64
import functools
import hashlib
import http.server
import io
import os
import shutil
import threading
import zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from kagglesdk import kaggle_env
from scipy.io import savemat

from hmsutils import __main__, download, records
from hmsutils.competition import CLASSES, SLUG, VOTE_COLUMNS

LABELS = "/Figure3/samples.mat"
PATHS = {name: f"/Figure4to6/samples/{name}.mat" for name in download.SAMPLES}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.faults` holds a status to answer with, or "cut"."""

    def do_GET(self):
        body, fault = self.server.files.get(self.path), self.server.faults.get(self.path)
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.asked.append((self.path, start))
        if body is None or isinstance(fault, int):
            return self.send_error(fault or 404)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Accept-Ranges", "bytes")
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[start : len(body) // 2 if fault == "cut" else None])

    def do_POST(self):  # Kaggle's API: names the archive, or refuses
        self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.faults.get("api")
        if fault or self.headers["Authorization"] != "Bearer token":
            return self.send_error(fault or 401)
        self.send_response(302)
        self.send_header("Location", "/archive.zip")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.faults, server.headers, server.asked = {}, {}, {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def flipped(body, at=None):
    """The same bytes but for one, by default in the middle."""
    at = at or len(body) // 2
    return body[:at] + bytes([body[at] ^ 255]) + body[at + 1 :]


# The competition


COUNTS = {"rows": 4, "eeg_id": 2, "spectrogram_id": 3, "patient_id": 2}


@pytest.fixture
def kaggle(server, monkeypatch, tmp_path):
    """kagglehub's own code against a tiny competition: only Kaggle's address is replaced."""
    table = pd.DataFrame({"eeg_id": [1, 1, 2, 2], "spectrogram_id": [5, 5, 6, 7], "patient_id": 9})
    table.loc[3, "patient_id"] = 8
    content = {"train.csv": table.to_csv(index=False).encode(), "test.csv": b"eeg_id\n"}
    content |= {f"train_eegs/{i}.parquet": np.random.default_rng(i).bytes(3 << 20) for i in (1, 2)}
    content |= {f"train_spectrograms/{i}.parquet": bytes(100) for i in (5, 6, 7)}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)
    server.files["/archive.zip"], server.content = archive.getvalue(), content
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url)
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLEHUB_CACHE", "KAGGLE_API_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    for name in ("HOME", "KAGGLE_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))
    return server


def content(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_competition_arrives_whole_and_only_once(kaggle, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", "mine")
    for _ in range(2):
        found = download.download_competition(tmp_path / "raw", COUNTS)
        assert found.root == tmp_path / "raw" and content(found.root) == kaggle.content
    assert len(kaggle.asked) == 1 and os.environ["KAGGLEHUB_CACHE"] == "mine"


def test_a_download_says_what_room_it_needs_and_refuses_where_there_is_less(
    kaggle, tmp_path, monkeypatch, capsys
):
    gb = sum(download.COUNTS[name] * size for name, size in download.BYTES.items()) / 1e9
    assert 2 * 19.5 < gb < 50  # the archive, and at least as much unpacked
    free = SimpleNamespace(free=10e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    with pytest.raises(OSError, match=r"download competition needs 46,803.8 MB in .* 10,000.0 MB"):
        download.download_competition(tmp_path)
    assert not kaggle.asked
    download.download_competition(tmp_path, COUNTS)
    assert "download competition needs 6.8 MB in" in capsys.readouterr().out


def test_a_cut_off_competition_goes_on_where_it_stopped(kaggle, tmp_path):
    kaggle.faults["/archive.zip"] = "cut"
    with pytest.raises(ConnectionError, match="goes on from here"):
        download.download_competition(tmp_path, COUNTS)
    kaggle.faults.clear()
    (kept,) = tmp_path.rglob("*.archive")
    start = kept.stat().st_size
    assert content(download.download_competition(tmp_path, COUNTS).root) == kaggle.content
    assert kaggle.asked[-1] == ("/archive.zip", start) and start >= 1 << 20


def test_an_interrupted_move_is_finished(kaggle, tmp_path, monkeypatch):
    def stop(source, target):
        if target.endswith("6.parquet"):
            raise KeyboardInterrupt
        replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", stop)
    kaggle.headers["Last-Modified"] = "Mon, 01 Apr 2024 00:00:00 GMT"
    with pytest.raises(KeyboardInterrupt):
        download.download_competition(tmp_path, COUNTS)
    monkeypatch.setattr(os, "replace", replace)
    assert content(download.download_competition(tmp_path, COUNTS).root) == kaggle.content


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        flipped,  # a wrong checksum
        lambda body: flipped(body, at=30 + len("train.csv")),  # cannot be inflated
        lambda body: body[::-1],  # no archive
    ],
)
def test_a_damaged_competition_is_refused_and_removed(kaggle, tmp_path, hashed, damage):
    body = kaggle.files["/archive.zip"]
    if hashed:
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        kaggle.headers["x-goog-hash"] = f"md5={md5}"
    kaggle.files["/archive.zip"] = damage(body)
    with pytest.raises(ValueError, match="it was removed"):
        download.download_competition(tmp_path, COUNTS)
    assert not (tmp_path / "train.csv").exists()
    kaggle.files["/archive.zip"] = body
    assert content(download.download_competition(tmp_path, COUNTS).root) == kaggle.content


@pytest.mark.parametrize("reason", ["no token", "wrong token", 403, "offline"])
def test_a_refusal_explains_account_token_and_rules(kaggle, tmp_path, monkeypatch, capsys, reason):
    if reason == "no token":
        monkeypatch.delenv("KAGGLE_API_TOKEN")
    if reason == "wrong token":
        monkeypatch.setenv("KAGGLE_API_TOKEN", "guessed")
    if reason == 403:
        kaggle.faults["api"] = 403
    if reason == "offline":
        kaggle.shutdown()
        kaggle.server_close()
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["download", "competition", "--out", str(tmp_path / "raw")])
    told = {"no token": "not authenticated", "wrong token": "401", 403: "403", "offline": "refused"}
    text = capsys.readouterr().err
    assert told[reason] in text and "KAGGLE_API_TOKEN" in text and f"{SLUG}/rules" in text
    assert not kaggle.asked and not (tmp_path / "raw" / "train.csv").exists()


def test_what_the_competition_lacks_is_named(kaggle, tmp_path):
    with pytest.raises(ValueError, match="train.csv has 4 rows, wanted 106,800; .*wanted 3"):
        download.download_competition(tmp_path, COUNTS | {"rows": 106_800, "eeg_id": 3})
    (tmp_path / "train_spectrograms" / "6.parquet").unlink()
    competition = download.Competition(tmp_path, "local")
    assert "1 files named" in (text := download._missing(competition, COUNTS)), text
    assert "train_spectrograms/6.parquet" in text
    assert content(download.download_competition(tmp_path, COUNTS).root) == kaggle.content


# The sample recordings


def in_matlab(compressed=True, **values):
    """MATLAB compresses by itself, which adds a checksum."""
    out = io.BytesIO()
    savemat(out, values, do_compression=compressed)
    return out.getvalue()


def labels_in_matlab(votes, probabilities):
    """(24, 6) each, classes in the order of `CLASSES`; in the file Other comes first."""
    lut = np.empty((6, 1), object)
    for k in range(6):
        lut[k, 0] = np.empty((4, 5), object)
        for i in range(4):
            row = 4 * k + i
            other_first = np.roll(votes[row], 1)[None], np.roll(probabilities[row], 1)[None]
            lut[k, 0][i] = [f"{download.SAMPLES[row]}.mat", *other_first, 1.5, 2.5]
    return in_matlab(LUT=lut)


@pytest.fixture(scope="module")
def made():
    """24 invented recordings and what is served of them: (eeg_uv, votes, probabilities, files)."""
    rng = np.random.default_rng(0)
    eeg_uv = np.zeros((24, 10_000, 20), np.float32)
    eeg_uv[:, ::100] = rng.normal(0, 50, (24, 100, 20))
    eeg_uv[5, :, -1] = np.nan
    votes = rng.integers(0, 9, (24, 6)) + np.eye(6, dtype=int)[0]
    probabilities = rng.dirichlet([1] * 6, 24)
    both_ways = [values.T if i % 2 else values for i, values in enumerate(eeg_uv)]
    files = {path: in_matlab(seg=seg) for path, seg in zip(PATHS.values(), both_ways, strict=True)}
    return eeg_uv, votes, probabilities, files | {LABELS: labels_in_matlab(votes, probabilities)}


@pytest.fixture
def samples(server, made):
    server.files |= made[-1]
    return server


def get(server, root, known=()):
    return download.download_samples(root, server.url, dict(known))


def test_samples_become_a_competition(samples, made, tmp_path):
    eeg_uv, votes, probabilities, _ = made
    competition = get(samples, tmp_path)
    windows = records.load_windows(competition)
    np.testing.assert_array_equal(windows[list(VOTE_COLUMNS)], votes)
    assert list(windows["expert_consensus"]) == [CLASSES[k] for k in votes.argmax(axis=1)]
    assert windows["patient_id"].nunique() == 24 and windows["eeg_id"].iloc[-1] == 9000000054
    for eeg_id, wanted in zip(windows["eeg_id"], eeg_uv, strict=True):
        np.testing.assert_array_equal(records.read_eeg(competition, eeg_id), wanted)
    published = download.published_predictions(competition, windows)
    np.testing.assert_allclose(published, probabilities, atol=5e-7)
    assert "ODC-By 1.0" in competition.why and "Neurology 2023" in competition.why


def test_samples_are_downloaded_once_and_their_hashes_kept(samples, tmp_path):
    get(samples, tmp_path)
    get(samples, tmp_path)
    assert len(samples.asked) == 25
    lines = (tmp_path / "originals" / "registry.txt").read_text().split("\n")
    assert f"{LABELS[1:]} {hashlib.sha256(samples.files[LABELS]).hexdigest()}" in lines


@pytest.mark.parametrize("fault", ["cut", 403, 404])
def test_samples_go_on_after_a_file_that_did_not_arrive(samples, tmp_path, fault):
    path = PATHS["GPD_sample2"]
    samples.faults[path] = fault
    with pytest.raises(ConnectionError, match="GPD_sample2.*goes on from here"):
        get(samples, tmp_path)
    before = len(samples.asked)
    assert before == 11 and not (tmp_path / "originals" / path[1:]).exists()
    samples.faults.clear()
    get(samples, tmp_path)
    assert len(samples.asked) == before + 15


def test_a_damaged_sample_is_refused_and_removed(samples, tmp_path):
    path = PATHS["SZ_sample2"]
    good, samples.files[path] = samples.files[path], flipped(samples.files[path])
    with pytest.raises(ValueError, match="SZ_sample2.mat.*it was removed"):
        get(samples, tmp_path)
    assert not (tmp_path / "train.csv").exists()
    samples.files[path] = good
    get(samples, tmp_path)


def test_a_later_download_must_match_the_first(samples, made, tmp_path):
    get(samples, tmp_path)
    path = PATHS["SZ_sample2"]
    (tmp_path / "originals" / path[1:]).unlink()
    samples.files[path] = in_matlab(seg=made[0][0])
    with pytest.raises(ConnectionError, match="does not match"):
        get(samples, tmp_path)
    assert not (tmp_path / "originals" / path[1:]).exists()


@pytest.mark.parametrize("name", ["SZ_sample1", "samples"])
def test_values_other_than_the_published_are_refused(samples, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}.mat.*other values.*removed"):
        get(samples, tmp_path, {name: download.SHA256[name]})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda votes, p: (votes / 2, p), "no counts of votes"),
        (lambda votes, p: (-votes, p), "no counts of votes"),
        (lambda votes, p: (p, votes), "no counts of votes"),
        (
            lambda votes, p: (np.pad(votes, ((0, 0), (0, 1))), np.pad(p, ((0, 0), (0, 1)))),
            "for six",
        ),
        (lambda votes, p: (votes * 0, p), "holds no vote"),
        (lambda votes, p: (votes, votes), "do not sum to 1"),
        (lambda votes, p: (votes[:, :1], p), "ValueError"),
    ],
)
def test_labels_that_are_not_understood_are_refused(samples, made, tmp_path, change, message):
    samples.files[LABELS] = labels_in_matlab(*change(*made[1:3]))
    with pytest.raises(ValueError, match=message):
        get(samples, tmp_path)


def test_an_eeg_of_another_length_is_refused(samples, made, tmp_path):
    samples.files[PATHS["SZ_sample1"]] = in_matlab(seg=made[0][0][:9000].T)
    with pytest.raises(ValueError, match=r"`seg` is \(20, 9000\), wanted 20 × 10000"):
        get(samples, tmp_path)


def test_the_command_shows_the_attribution(samples, tmp_path, monkeypatch, capsys):
    local = functools.partial(download.download_samples, base_url=samples.url, known={})
    monkeypatch.setattr(download, "download_samples", local)
    __main__.main(["download", "samples", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "ODC-By 1.0" in out and "Neurology 2023;100(17):e1750" in out


def test_the_real_recordings_pass_the_published_hashes(samples, made, real, tmp_path):
    train = pd.read_csv(real.root / "train.csv")
    model = pd.read_csv(real.root / "sparcnet_predictions.csv")
    votes, probabilities = made[1].copy(), made[2].copy()
    for row, name in enumerate(model["source"]):
        k = download.SAMPLES.index(name)
        votes[k] = train.loc[row, list(VOTE_COLUMNS)]
        probabilities[k] = model.iloc[row, 2:]
        eeg_uv = records.read_eeg(real, train["eeg_id"][row])
        samples.files[PATHS[name]] = in_matlab(False, seg=eeg_uv.T.astype(float))
    samples.files[LABELS] = labels_in_matlab(votes, probabilities)
    competition = download.download_samples(tmp_path, samples.url)
    for table in ("train.csv", "sparcnet_predictions.csv"):
        lines = (competition.root / table).read_text().split("\n")
        assert set((real.root / table).read_text().split("\n")) <= set(lines) and len(lines) == 26
    for eeg_id in train["eeg_id"]:
        a, b = (pd.read_parquet(c.eeg(eeg_id)) for c in (competition, real))
        pd.testing.assert_frame_equal(a, b)


def test_published_predictions_are_those_of_the_same_recordings(real, competition):
    windows = records.load_windows(real)
    published = download.published_predictions(real, windows)
    assert published.shape == (len(windows), 6)
    np.testing.assert_allclose(published.sum(axis=1), 1, atol=0.02)
    turned = download.published_predictions(real, windows[::-1])
    np.testing.assert_array_equal(turned, published[::-1])
    with pytest.raises(FileNotFoundError, match="only the real sample recordings"):
        download.published_predictions(competition, windows)
