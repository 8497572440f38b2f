"""A proxy that carries bytes as they are, but for one frame of one stream: the sabotage of a claim."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

FRAME, SPOILT = b"data: {", b"data: <"


class Spoiler:
    """Listens on `port`, carries to `behind`; the first frame of a stream that passes is broken."""

    def __init__(self, port: int, behind: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._behind = behind
        self._left = 1
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the claim is over
            while True:
                client, _ = self._listener.accept()
                gateway = socket.create_connection(("127.0.0.1", self._behind))
                for source, sink, spoils in ((client, gateway, False), (gateway, client, True)):
                    carrying = (source, sink, spoils)
                    threading.Thread(target=self._carry, args=carrying, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, spoils: bool) -> None:
        with contextlib.suppress(OSError):  # either side left: the other one hears of it
            while data := source.recv(65_536):
                sink.sendall(self._spoil(data) if spoils else data)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _spoil(self, data: bytes) -> bytes:
        with self._lock:
            if not self._left or FRAME not in data:
                return data
            self._left = 0
        return data.replace(FRAME, SPOILT, 1)
