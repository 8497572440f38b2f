"""What a part is told at its start, and that a gateway worker needs nothing else."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from infra.handover import Handover
from infra.parts import Part, kind_of
from infra.processes import Process
from infra.settings import WeirSettings, load
from infra.standing import models_part, standing_parts
from infra.words import handover_of
from schemas.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
SECRET = "ab" * 32


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIR_HOME", str(tmp_path / "home"))


def settings(**changes: object) -> WeirSettings:
    kafka = {"bootstrap": "k:9092", "sasl_password": "geheim", "ca_file": "/ca.pem"}
    parts = {"gateway": {"drain_s": 7.5}, "trainer": {"hyperparameters": {"rank": 4}}}
    given = {"kafka": kafka, "master_key": SECRET, "cors_origins": ["https://a"], "parts": parts}
    return load(**(given | changes))


def told_parts() -> list[Part]:
    installation = settings()
    parts = standing_parts(installation, sandbox=True)
    return [*parts, models_part(installation, Path(sys.executable))]


@pytest.mark.parametrize("name", ["gateway-1", "streams", "sandbox", "trainer", "models"])
def test_a_part_reads_all_that_it_is_told(name: str) -> None:
    told = handover_of(name, settings())
    assert Handover.load(kind_of(name), told.dump()) == told
    assert told.connection.sasl_password == "geheim"


def test_every_part_but_control_is_told_its_settings_and_no_secret_is_to_be_seen() -> None:
    parts = told_parts()
    assert [part.name for part in parts if not part.handed] == ["control"]
    for part in parts:
        seen = repr((part, part.command, part.environment))
        assert "geheim" not in seen
        assert SECRET not in seen
    assert bytes.fromhex(SECRET) in next(part.handed for part in parts if part.name == "gateway-0")


def test_wrong_settings_of_a_part_end_the_start_of_all() -> None:
    with pytest.raises(ConfigurationError, match="drane_s"):
        standing_parts(settings(parts={"gateway": {"drane_s": 1}}), sandbox=False)


def test_what_is_no_handover_is_an_error() -> None:
    whole = handover_of("gateway-0", settings()).dump()
    for data in (b"", whole[:-1], msgspec.msgpack.encode({"home": "/"})):
        with pytest.raises(msgspec.DecodeError):
            Handover.load("gateway", data)


@pytest.mark.req("GW-13")
def test_a_worker_that_is_told_its_settings_never_imports_their_reader() -> None:
    program = (
        "import sys, infra.part, gateway.app\n"
        "infra.part._told('gateway-0', from_input=True)\n"
        "print(*{'pydantic', 'pydantic_settings', 'psutil', 'streams'} & sys.modules.keys())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        input=handover_of("gateway-0", settings()).dump(),
        capture_output=True,
        check=True,
    )
    assert ended.stdout.split() == []


async def test_a_process_finds_what_it_is_given_whatever_its_size(tmp_path: Path) -> None:
    given = os.urandom(300_000)
    program = f"import sys; open({str(tmp_path / 'got')!r}, 'wb').write(sys.stdin.buffer.read())"
    command = (sys.executable, "-c", program)
    process = await Process.spawn(command, dict(os.environ), tmp_path / "log", tmp_path, given)
    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert (tmp_path / "got").read_bytes() == given


async def test_a_process_that_dies_before_it_reads_is_one_that_died(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit(3)")
    process = await Process.spawn(
        command, dict(os.environ), tmp_path / "log", tmp_path, bytes(300_000)
    )
    assert await asyncio.wait_for(process.wait(), 30) == 3
