"""What the trainer's tests share: the interpreter that has torch, and a pretrained tiny base."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.trainer_env import trainer_python


def _can_tune(python: Path) -> bool:
    if not python.exists():
        return False
    probe = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('torch', 'trl'))))"
    return subprocess.run([python, "-c", probe], check=False).returncode == 0


@pytest.fixture(scope="session")
def tuner() -> Path:
    """The interpreter of the trainer's environment; tests that need it are skipped without."""
    for python in (Path(sys.executable), trainer_python()):
        if _can_tune(python):
            return python
    pytest.skip("the trainer's environment is not installed (make trainer-env)")


@pytest.fixture(scope="session")
def tiny_base(tuner: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained tiny base; WEIR_TEST_TINY_BASE names one that exists already."""
    if ready := os.environ.get("WEIR_TEST_TINY_BASE"):
        return Path(ready)
    out = tmp_path_factory.mktemp("bases") / "tiny"
    subprocess.run([tuner, "-m", "trainer.tiny", out, "--seed", "0"], check=True)
    return out
