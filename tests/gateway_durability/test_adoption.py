"""Workers and adopters killed with -9 at seeded moments: nothing lost, nothing double."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.adoption import Adopter, Remains, abandonment
from gateway.entry import Entry
from gateway.ledger import Recorder
from gateway.outbox import Outbox
from gateway.outbox_folder import create_folder, lock_folder
from gateway.segment import frame, frames, segment_path, segment_paths
from infra.broker import Broker
from infra.kafka import KafkaLog
from schemas.events.llm import CostEntry, RequestAdmitted, ResponseCompleted
from schemas.events.operations import OutboxClosed
from schemas.log import Connection
from tests.gateway_durability.support import (
    MASTER,
    Seen,
    call,
    here,
    request,
    seen_since,
    settings,
)

NOBODY = Connection("127.0.0.1:1")


class Worker:
    """`writer.py` in a process of its own; `answered` are the ids that its clients saw."""

    def __init__(self, folder: Path, bootstrap: str, seed: int) -> None:
        self.output = folder / f"answered-{seed}"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.gateway_durability.writer",
                    folder,
                    bootstrap,
                    str(seed),
                ],
                stdout=out,
            )

    def answers(self) -> list[str]:
        lines = self.output.read_bytes().split(b"\n")[:-1]
        return [line.split()[1].decode() for line in lines if line.startswith(b"ok ")]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def work_for(self, seconds: float) -> None:
        until = time.monotonic() + 30
        while not self.answers() and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(seconds)


def check_books(seen: Seen, answered: list[str]) -> int:
    """Every call has one admission, one outcome, one ledger line; those answered succeeded."""
    admitted, outcomes = seen.ids(RequestAdmitted), seen.ids(ResponseCompleted)
    lines, succeeded = seen.ids(CostEntry), seen.ids(ResponseCompleted, outcome="success")
    abandoned = seen.ids(ResponseCompleted, outcome="abandoned")
    assert set(admitted.values()) <= {1}
    assert admitted == outcomes == lines
    assert set(answered) <= set(succeeded)
    assert len(abandoned) == len(admitted) - len(succeeded)
    assert seen.ids(CostEntry, entry="abandoned") == abandoned
    return len(abandoned)


@pytest.mark.req("BEY-03")
async def test_killed_workers_lose_and_double_nothing(
    tmp_path: Path, broker: Broker, log: KafkaLog
) -> None:
    start, draw, answered = await here(log), random.Random(20261), []
    for seed in range(3):
        worker = Worker(tmp_path, broker.bootstrap, seed)
        await asyncio.to_thread(worker.work_for, draw.random() * 0.8)
        worker.kill()
        answered += worker.answers()
    chosen = settings(tmp_path)
    adopter = Adopter(chosen, Connection(broker.bootstrap), "/gw/adopter")
    await asyncio.to_thread(adopter.scan)
    assert adopter.adopted == 3
    assert list(chosen.folder.iterdir()) == []
    seen = await seen_since(log, start)
    assert len(answered) > 20
    assert check_books(seen, answered) == adopter.abandoned
    assert adopter.abandoned > 0
    closed = [event for event in seen.events if isinstance(event, OutboxClosed)]
    assert sum(event.abandoned for event in closed) == adopter.abandoned


ADOPT = """
import sys
from pathlib import Path
from gateway.adoption import Adopter
from schemas.log import Connection
from tests.gateway_durability.support import settings
print("started", flush=True)
Adopter(settings(Path(sys.argv[1])), Connection(sys.argv[2]), "/gw/adopter").scan()
"""


@pytest.mark.req("BEY-03")
async def test_an_adopter_killed_in_the_middle_changes_nothing(
    tmp_path: Path, broker: Broker, log: KafkaLog
) -> None:
    start, draw = await here(log), random.Random(20262)
    worker = Worker(tmp_path, NOBODY.bootstrap, 10)  # so that it relays nothing itself
    await asyncio.to_thread(worker.work_for, 1.0)
    worker.kill()
    for _ in range(3):
        adopter = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            ADOPT,
            str(tmp_path),
            broker.bootstrap,
            stdout=subprocess.PIPE,
        )
        assert adopter.stdout is not None
        await adopter.stdout.readline()
        await asyncio.sleep(draw.random() * 0.15)
        adopter.kill()
        await adopter.wait()
    last = Adopter(settings(tmp_path), Connection(broker.bootstrap), "/gw/last")
    await asyncio.to_thread(last.scan)
    assert list(settings(tmp_path).folder.iterdir()) == []
    seen = await seen_since(log, start)
    check_books(seen, worker.answers())
    assert len([e for e in seen.events if isinstance(e, OutboxClosed)]) == 1


@pytest.mark.req("BEY-03")
async def test_the_torn_tail_is_cut_and_the_rest_settled(tmp_path: Path) -> None:
    outbox = Outbox(settings(tmp_path), "/gw/t")
    recorder = Recorder(outbox, MASTER)
    done, _ = call(recorder)
    left = request()
    recorder.admitted(left)
    lock = outbox.close()
    [path] = segment_paths(outbox.folder)
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(frame([Entry(99, "t", 0, b"k", b"v", [], 0)])[:-3] + bytes(500))
    remains = Remains(outbox.folder)
    assert path.stat().st_size == whole
    assert remains.conclude("/gw/adopter") == 1
    again = Remains(outbox.folder)
    assert again.closed
    assert not again.admitted
    # Its response, its cost, what it spent of its budget, and the closing.
    assert again.last == remains.last == outbox.written + 4
    assert again.conclude("/gw/adopter") == 0
    assert done.encode() not in again.admitted
    assert lock_folder(outbox.folder) is None
    assert lock > 0


def test_abandonment_is_the_same_whoever_writes_it() -> None:
    admitted = request(reserved_nano_usd=77)
    [first, cost], [second, _] = abandonment(admitted), abandonment(admitted)
    assert first.event_id == second.event_id != cost.event_id
    assert isinstance(cost, CostEntry)
    assert (cost.entry, cost.cost_nano_usd, cost.basis) == ("abandoned", 77, "estimated")
    unknown = abandonment(request(reserved_nano_usd=None))[1]
    assert isinstance(unknown, CostEntry)
    assert (unknown.cost_nano_usd, unknown.basis) == (None, "none")


async def test_an_outbox_whose_entries_miss_is_set_aside(
    tmp_path: Path, broker: Broker, log: KafkaLog
) -> None:
    chosen = settings(tmp_path)
    folder = chosen.folder / "0123456789abcdef"
    lock = create_folder(folder)
    entry = Entry(5, "weir.llm.responses.v1", 0, b"k", b"v", [], 0)
    first, second = segment_path(folder, 1), segment_path(folder, 5)
    first.write_bytes(frame([Entry(1, "weir.heartbeats.v1", 0, b"outbox:x", b"v", [], 0)]))
    second.write_bytes(frame([entry]))
    remains = Remains(folder)
    assert remains.damaged
    remains.remove()
    assert [path.name for path in chosen.folder.iterdir()] == [".damaged-0123456789abcdef"]
    assert lock > 0


@pytest.mark.req("BEY-03")
@pytest.mark.parametrize("at", ["length", "checksum", "body"])
async def test_what_lies_behind_damage_is_kept(tmp_path: Path, at: str) -> None:
    """A bad sector costs the frame that it hits, not what was written after it, and leaves a trace."""
    outbox = Outbox(settings(tmp_path), "/gw/t")
    recorder = Recorder(outbox, MASTER)
    calls = []
    for _ in range(4):
        calls.append(call(recorder)[0].encode())
        outbox.sync()
    lock = outbox.close()
    [path] = segment_paths(outbox.folder)
    data = bytearray(path.read_bytes())
    whole = list(frames(bytes(data)))
    struck = next(n for n, one in enumerate(whole) if calls[1] in {it.key for it in one.entries})
    begin = whole[struck - 1].end
    place = {"length": begin, "checksum": begin + 5, "body": begin + 30}[at]
    data[place] ^= 0x55
    path.write_bytes(data)
    assert len(whole) > struck + 1
    remains = Remains(outbox.folder)
    assert remains.damaged
    assert remains.last == outbox.written
    left = [entry for one in frames(path.read_bytes()) for entry in one.entries]
    expected = [it for n, one in enumerate(whole) if n != struck for it in one.entries]
    assert left == expected
    assert path.with_suffix(".damaged").read_bytes() == data
    again = Remains(outbox.folder)
    assert again.damaged, "whoever takes over from an adopter that died knows it too"
    assert lock_folder(outbox.folder) is None
    assert lock > 0


async def test_an_outbox_in_use_is_left_alone(tmp_path: Path) -> None:
    outbox = Outbox(settings(tmp_path), "/gw/t")
    adopter = Adopter(settings(tmp_path), NOBODY, "/gw/adopter")
    adopter.scan()
    assert adopter.adopted == 0
    assert outbox.folder.exists()
