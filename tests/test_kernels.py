"""Compiled functions work where nothing can be cached. Their values: test_augment, test_signals and
test_spectrograms."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

CODE = """
import numpy as np
from hmsutils import kernels
out = np.zeros((1, 1, 3), np.float32)
kernels._put(np.full((2, 4), 5, np.float32), np.zeros((2, 3), np.uint32), 1, out, 0, 0)
assert (out == 5).all()
print(kernels.__file__, kernels.config.CACHE_DIR or kernels.render._cache.cache_path)
"""


@pytest.mark.parametrize("writable", [True, False])
def test_functions_are_cached_where_that_is_possible_and_compiled_everywhere(tmp_path, writable):
    package, elsewhere = tmp_path / "hmsutils", ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    package.mkdir()
    for name in ("__init__.py", "competition.py", "kernels.py"):
        shutil.copy(REPOSITORY / "hmsutils" / name, package)
    environment = {k: v for k, v in os.environ.items() if k not in elsewhere}
    if not writable:  # not even by root: files where numba would make folders
        (package / "__pycache__").touch()
        environment |= {"HOME": "/dev/null", "TMPDIR": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    file, folder = map(Path, out.stdout.split())
    assert file == package / "kernels.py"
    if writable:
        assert folder == package / "__pycache__" and list(folder.glob("kernels._put*.nbc"))
    else:
        assert folder.parent == tmp_path and not folder.exists()  # for this process alone
