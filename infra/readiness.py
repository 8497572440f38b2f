"""When a part counts as ready: it answers, or says so in a file, or else it has lived a moment."""

import asyncio
import contextlib
import time
from pathlib import Path

import psutil

from infra.broker import serves
from infra.parts import Part
from infra.processes import Process
from schemas.log import Connection

_ANSWER_S = 1.0
_ALIVE_S = 1.0


async def is_ready(part: Part, process: Process) -> bool:
    """Whether the part of this process is ready now."""
    if not process.alive():
        return False
    if part.probe == "kafka":
        return await asyncio.to_thread(serves, Connection(f"127.0.0.1:{part.port}"))
    if part.probe == "http":
        return await _answers(part.port) and _listens(process.pid, part.port)
    if part.probe == "tcp":
        return _listens(process.pid, part.port)
    if part.ready_file is not None:
        return _says(part.ready_file, process.pid)
    return process.created_s is None or time.time() - process.created_s > _ALIVE_S


def _says(file: Path, pid: int) -> bool:
    """Whether a part has said of itself that it is ready; what a former process said is none."""
    try:
        return file.read_text() == str(pid)
    except OSError:
        return False


async def _answers(port: int) -> bool:
    """Whether `GET /health` is answered with 200."""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /health HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n")
                status = await reader.readline()
                return b" 200" in status
            finally:
                writer.close()
    return False


def _listens(pid: int, port: int) -> bool:
    """Whether the process itself listens: workers share a port, so an answer may be another's."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(
        connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        for connection in connections
    )
