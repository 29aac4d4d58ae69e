"""What guards the project: no network in tests, locked versions, an audit, every allowed Python."""

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from importlib.util import find_spec
from types import SimpleNamespace

import audit
import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

OUTSIDE = ("192.0.2.1", 80)  # an address that nobody has (RFC 5737)
ATTEMPTS = {
    "connect": lambda s: s.connect(OUTSIDE),
    "connect_ex": lambda s: s.connect_ex(OUTSIDE),
    "sendto": lambda s: s.sendto(b"?", OUTSIDE),
    "a name": lambda s: socket.getaddrinfo("example.org", 80),
    "an old call for a name": lambda s: socket.gethostbyname("example.org"),
}


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["TCP", "UDP"])
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_outside_is_reached(attempt, kind):
    with socket.socket(type=kind) as one, pytest.raises(OSError, match="internet is off"):
        one.settimeout(0.1)
        ATTEMPTS[attempt](one)


def test_loopback_is(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))


def test_processes_that_tests_start_are_offline_too():
    code = f"import socket; socket.create_connection({OUTSIDE}, 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "OSError: internet is off" in done.stderr


def pins(name):
    """{package: version} of a file of requirements."""
    lines = (REPOSITORY / name).read_text().splitlines()
    found = [Requirement(re.split(r" [#\\]", line)[0]) for line in lines if re.match(r"\w", line)]
    return {one.name: str(one.specifier).removeprefix("==") for one in found}


def test_the_lock_holds_the_versions_of_the_requirements_with_hashes():
    wanted, locked = pins("requirements.txt"), pins("requirements.lock")
    assert {name: locked.get(name.lower()) for name in wanted} == wanted, "make lock"
    for name in ("requirements.lock", "requirements-gpu.lock"):
        text = (REPOSITORY / name).read_text()
        for package in re.split(r"\n(?=\w)", text.partition("make lock\n")[2] or text):
            assert "--hash=sha256:" in package, package.splitlines()[0]
        assert "://" not in text  # no index, no host: any registry whose files have these hashes


def test_the_lock_for_gpus_holds_what_this_tensorflow_wants_of_cuda_and_nothing_else():
    if not find_spec("tensorflow") or version("keras") != pins("requirements.txt")["keras"]:
        pytest.skip("needs the locked TensorFlow")
    wanted = [Requirement(line) for line in requires("tensorflow") if "and-cuda" in line]
    locked = pins("requirements-gpu.lock")
    assert sorted(locked) == sorted(one.name for one in wanted), "make lock"
    assert all(locked[one.name] in one.specifier for one in wanted)


@pytest.mark.parametrize("card", ["Tesla T4", "no card", "broken driver"])
@pytest.mark.parametrize("gpu", ["", "GPU=1", "GPU=0"])
def test_make_sees_a_card_adds_cuda_if_asked_and_else_says_so(tmp_path, card, gpu):
    there = 'echo "GPU 0: Tesla T4 (UUID: GPU-1)"'
    driver = {"Tesla T4": there, "broken driver": "echo NVIDIA-SMI has failed; exit 9"}
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{driver.get(card, 'exit 127')}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "ready").touch()
    command = [
        "make",
        "-n",
        f"VENV={tmp_path}",
        "-o",
        tmp_path / "ready",
        "notebooks",
        *gpu.split(),
    ]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True).stdout
    assert ("-r requirements-gpu.lock" in said) == (gpu == "GPU=1")
    assert ('[ -z "GPU 0: Tesla T4" ]' in said) == (card == "Tesla T4")  # else: that is "", silent
    assert ("cudart_stub" in said) == (card != "Tesla T4")  # among what is hidden


def test_the_locked_versions_are_those_that_the_project_allows():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    locked = pins("requirements.lock")
    for allowed in map(Requirement, project["dependencies"]):
        assert locked[allowed.name] in allowed.specifier, allowed
    workflow = (REPOSITORY / ".github/workflows/ci.yml").read_text()
    tried = re.findall(r"\d\.\d+", re.search(r"python: \[(.*)\]", workflow).group(1))
    assert tried == ["3.11", "3.12", "3.13"]
    assert all(version in SpecifierSet(project["requires-python"]) for version in tried)


VULNERABLE = {"id": "CVE-2025-1550", "fix_versions": ["3.9.0"]}
AUDITS = {
    "nothing is known of 1 of 2 packages": [{}, {"skip_reason": "not found"}],
    "skipped, PyPI's list .* cannot be reached": [{"skip_reason": "not found"}],
    "make lock\nkeras 3.8.0: CVE-2025-1550, fixed in 3.9.0": [{"vulns": [VULNERABLE]}],
    "skipped, ConnectionError: no route": None,
}


@pytest.mark.parametrize("answer", AUDITS)
def test_an_audit_names_what_is_vulnerable_or_says_why_it_looked_nothing_up(answer, monkeypatch):
    package = {"name": "keras", "version": "3.8.0", "vulns": []}
    found = AUDITS[answer] and {"dependencies": [package | one for one in AUDITS[answer]]}
    done = SimpleNamespace(
        stdout=found and json.dumps(found), stderr="…\nConnectionError: no route"
    )
    monkeypatch.setattr(audit.subprocess, "run", lambda *args, **options: done)
    if "fixed" in answer:
        with pytest.raises(SystemExit, match=answer):
            audit.main("requirements.lock")
    else:
        assert re.search(answer, audit.main("requirements.lock"))
