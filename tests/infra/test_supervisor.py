import asyncio
import errno
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from infra.part import reason_of
from infra.parts import Part
from infra.processes import Process
from infra.state import (
    HomeLock,
    InstallationState,
    PartState,
    load_state,
    seen_state,
    supervised,
)
from infra.supervisor import Supervisor, stop_leftovers
from infra.up import last_words
from schemas.errors import ConfigurationError

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN_CODE = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""
STUBBORN = (sys.executable, "-c", STUBBORN_CODE)


def supervisor(home: Path) -> Supervisor:
    state = InstallationState(
        version="1",
        supervisor_pid=os.getpid(),
        fingerprint="f",
        port=1,
        public_url="",
        kafka="",
        embedded=True,
        started_at_us=0,
    )
    boss = Supervisor(state, home, dict(os.environ))
    boss.open_gate()
    return boss


async def eventually(true: object, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.02)


@pytest.mark.req("BEY-03")
async def test_a_part_that_is_killed_is_started_again(tmp_path: Path) -> None:
    boss = supervisor(tmp_path)
    entry = await boss.add(Part("sleeper", SLEEPER, order=1))
    assert await boss.wait_ready(["sleeper"], 10) == []
    first = entry.state.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: entry.state.restarts == 1 and entry.state.status == "ready")
    state = load_state(tmp_path)
    assert state is not None
    assert (state.parts[0].pid, state.parts[0].exit_code) == (entry.state.pid, -9)
    await boss.stop()
    assert not psutil.pid_exists(entry.state.pid or first)
    assert entry.state.status == "stopped"


@pytest.mark.req("BEY-03")
async def test_a_part_that_dies_on_a_full_disk_is_started_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boss = supervisor(tmp_path)
    entry = await boss.add(Part("sleeper", SLEEPER, order=1))
    assert await boss.wait_ready(["sleeper"], 10) == []
    tries = 0

    def full(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("infra.supervisor._BACKOFF_MAX_S", 0.05)
        patch.setattr(InstallationState, "save", full)
        patch.setattr(Process, "spawn", full)
        os.kill(entry.state.pid or 0, signal.SIGKILL)
        await eventually(lambda: tries > 3)
        assert entry.state.status == "restarting"
    await eventually(lambda: entry.state.restarts == 1 and entry.state.status == "ready")
    state = load_state(tmp_path)
    assert state is not None
    assert state.parts[0].pid == entry.state.pid
    await boss.stop()


async def test_a_part_is_not_ready_before_the_gate_is_open(tmp_path: Path) -> None:
    boss = supervisor(tmp_path)
    boss.close_gate()
    waiting = f"import os, time\nwhile not os.path.exists('{tmp_path}/gate'): time.sleep(0.02)\n1/0"
    entry = await boss.add(Part("waits", (sys.executable, "-c", waiting), order=1))
    await asyncio.sleep(0.5)
    assert entry.state.restarts == 0
    boss.open_gate()
    await eventually(lambda: entry.state.restarts >= 1)
    await boss.stop()


async def test_a_part_that_says_so_in_a_file_is_ready_when_it_does(tmp_path: Path) -> None:
    boss, file = supervisor(tmp_path), tmp_path / "ready"
    file.write_text("1")  # of a former process
    writing = (
        f"import os, time\nwhile not os.path.exists('{tmp_path}/now'): time.sleep(0.02)\n"
        f"open('{file}', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )
    command = (sys.executable, "-c", writing)
    boss.open_gate()
    await boss.add(Part("folds", command, order=1, probe="file", ready_file=file))
    assert await boss.wait_ready(["folds"], 1.5) == ["folds"]
    (tmp_path / "now").touch()
    assert await boss.wait_ready(["folds"], 20) == []
    await boss.stop()


async def test_a_part_that_dies_at_once_is_restarted_ever_more_slowly(tmp_path: Path) -> None:
    boss = supervisor(tmp_path)
    entry = await boss.add(Part("broken", (sys.executable, "-c", "raise SystemExit(3)"), order=1))
    await eventually(lambda: entry.state.restarts >= 2)
    assert entry.state.exit_code == 3
    # Its time is long, but to wait for it is in vain.
    assert await asyncio.wait_for(boss.wait_ready(["broken"], 3_600), 60) == ["broken"]
    await boss.stop()


async def test_stop_takes_a_parts_children_with_it(tmp_path: Path) -> None:
    boss = supervisor(tmp_path)
    entry = await boss.add(Part("stubborn", STUBBORN, order=1, stop_s=0.3))
    log = boss.log_file("stubborn")
    await eventually(lambda: log.exists() and "child" in log.read_text())
    child = int(log.read_text().split()[1])
    await boss.stop()
    await eventually(lambda: not psutil.pid_exists(child) or _zombie(child))
    assert entry.process is None


async def test_parts_stop_in_the_opposite_order_of_their_start(tmp_path: Path) -> None:
    boss = supervisor(tmp_path)
    stopped: list[str] = []
    boss._changed = lambda state: stopped.append(state.name) if state.status == "stopped" else None
    for order, name in enumerate(["broker", "control", "gateway-0"]):
        await boss.add(Part(name, SLEEPER, order=order))
    await boss.stop()
    assert stopped == ["gateway-0", "control", "broker"]


async def test_a_new_supervisor_takes_over_what_a_dead_one_left(tmp_path: Path) -> None:
    dead = supervisor(tmp_path)
    old = await dead.add(Part("sleeper", SLEEPER, order=1))
    pid = old.state.pid
    assert old.keeper is not None
    old.keeper.cancel()  # what kill -9 does: nobody looks after the process any more
    former = load_state(tmp_path)
    assert former is not None

    boss = supervisor(tmp_path)
    entry = await boss.add(Part("sleeper", SLEEPER, order=1), former.parts[0])
    assert await boss.wait_ready(["sleeper"], 10) == []
    assert entry.state.pid == pid
    await boss.stop()


async def test_leftovers_with_other_settings_are_ended(tmp_path: Path) -> None:
    dead = supervisor(tmp_path)
    old = await dead.add(Part("sleeper", SLEEPER, order=1))
    assert old.keeper is not None
    old.keeper.cancel()
    former = load_state(tmp_path)
    assert former is not None
    await stop_leftovers(former, {})
    assert not former.parts[0].alive() or _zombie(former.parts[0].pid or 0)


async def test_a_pid_that_was_given_anew_is_not_adopted(tmp_path: Path) -> None:
    boss = supervisor(tmp_path)
    entry = await boss.add(Part("sleeper", SLEEPER, order=1))
    stale = load_state(tmp_path)
    assert stale is not None
    stale.parts[0].created_s = 12345.0
    assert Process.adopt(stale.parts[0]) is None
    assert Process.adopt(entry.state) is not None
    await boss.stop()


def test_one_supervisor_at_a_time(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path)
    assert not supervised(tmp_path)
    assert lock.take()
    assert supervised(tmp_path)
    assert not HomeLock(tmp_path).take(wait_s=0.1)
    lock.release()
    assert not supervised(tmp_path)


def _zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def test_an_ended_parts_error_is_told_where_its_log_closes_with_one(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    assert last_words(log) == ""
    log.write_text(
        '{"level":"error","message":"control ends with an error: KeyError: 1","stack":"Traceback"}\n'
    )
    assert last_words(log) == " (control ends with an error: KeyError: 1)"
    log.write_text("not a line of ours\n")
    assert last_words(log) == ""


def test_a_part_that_is_not_there_is_told_so_whatever_was_written(tmp_path: Path) -> None:
    boss = supervisor(tmp_path)
    boss.state.parts = [
        PartState(name="broker", status="ready", pid=os.getpid(), created_s=1.0),
        PartState(name="control", status="ready", pid=os.getpid()),
        PartState(name="models", status="waiting"),
    ]
    boss.state.save(tmp_path)
    state = seen_state(tmp_path)
    assert state is not None
    assert [part.status for part in state.parts] == ["gone", "ready", "waiting"]


def test_the_reason_of_an_end_says_what_to_do() -> None:
    wrong = ConfigurationError(
        "the database x cannot be opened:\n no database", action="Delete it."
    )
    assert (
        reason_of(ExceptionGroup("tasks", [ExceptionGroup("of a part", [wrong]), KeyError(1)]))
        == "the database x cannot be opened: no database. Delete it."
    )
    assert reason_of(KeyError(1)) == "KeyError: 1"
