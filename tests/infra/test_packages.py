"""The versions that requirement GEN-01 names are floors of what the locks pin."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]

FLOORS = {
    "core": {"openai": "1.3", "anthropic": "0.7", "pydantic": "2.5", "psutil": "5.9"},
    "dev": {"pytest": "7.4", "pytest-asyncio": "0.21"},
    "trainer": {
        "transformers": "4.36",
        "torch": "2.1",
        "datasets": "2.14",
        "accelerate": "0.24",
        "peft": "0.6",
        "bitsandbytes": "0.41",
    },
}


@pytest.mark.req("GEN-01")
@pytest.mark.parametrize("lock", FLOORS)
def test_the_locks_pin_no_less_than_the_floors(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", text, re.MULTILINE))
    for name, floor in FLOORS[lock].items():
        assert Version(pinned[name]) >= Version(floor), name


@pytest.mark.req("GEN-01")
def test_weir_is_an_installable_package_with_extras_that_nobody_uploads_by_mistake() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"].startswith(">=3.11")
    assert set(project["optional-dependencies"]) >= {"trainer", "dev"}
    assert "Private :: Do Not Upload" in project["classifiers"]
    named = " ".join(project["dependencies"])
    assert not re.search(r"\b(flask|sqlalchemy)\b", named, re.IGNORECASE)
