"""Receivers of alerts on real sockets: an HTTP server and an SMTP server that note what they are told.

Each can be closed and opened again on its port. What was taken is a list of `Taken`, in order; nothing
of the product is used.
"""

from __future__ import annotations

import json
import socketserver
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Taken:
    """What a receiver took: by which way, under which id, when (Unix s), and all that was said."""

    way: str
    notification_id: str
    at_s: float
    said: dict[str, Any]


@dataclass
class Ledger:
    """What all receivers took."""

    entries: list[Taken] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, way: str, notification_id: str, said: dict[str, Any]) -> None:
        """Write one entry."""
        with self.lock:
            self.entries.append(Taken(way, notification_id, time.time(), said))

    def of(self, way: str) -> list[Taken]:
        """Return what came by one way."""
        with self.lock:
            return [entry for entry in self.entries if entry.way == way]


class _Server:
    """A server in a thread that can be closed and opened on the same port."""

    def __init__(self) -> None:
        self.port = 0
        self._server: socketserver.BaseServer | None = None

    def _make(self, port: int) -> socketserver.BaseServer:
        raise NotImplementedError

    def open(self) -> None:
        """Listen; the first time on a port that is free."""
        server = self._make(self.port)
        self.port = int(server.server_address[1])
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class HttpReceiver(_Server):
    """Takes webhooks at ``/hook`` and chat messages at ``/chat``; `status` is what it answers."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.status = 204

    def url(self, path: str) -> str:
        """Return an address of this receiver."""
        return f"http://127.0.0.1:{self.port}/{path}"

    def _make(self, port: int) -> socketserver.BaseServer:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                if receiver.status < 300:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    said = {"headers": headers, "body": json.loads(body), "raw": body.decode()}
                    way = self.path.strip("/")
                    receiver.ledger.note(way, headers.get("idempotency-key", ""), said)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                del args

        ThreadingHTTPServer.allow_reuse_address = True
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)


class SmtpReceiver(_Server):
    """Takes mail as RFC 5321 has it, without encryption."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def _make(self, port: int) -> socketserver.BaseServer:
        ledger = self.ledger

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(ConnectionError):  # who tells was killed
                    self._converse()

            def _converse(self) -> None:
                self._answer("220 bench ESMTP")
                sender, recipients = "", list[str]()
                while line := self.rfile.readline().decode("utf-8", "replace").strip():
                    word = line.upper()
                    if word.startswith(("EHLO", "HELO")):
                        self._answer("250 bench")
                    elif word.startswith("MAIL FROM:"):
                        sender, recipients = line[10:], []
                        self._answer("250 ok")
                    elif word.startswith("RCPT TO:"):
                        recipients.append(line[8:])
                        self._answer("250 ok")
                    elif word == "DATA":
                        self._answer("354 go on")
                        self._mail(sender, recipients)
                        self._answer("250 taken")
                    elif word == "QUIT":
                        self._answer("221 bye")
                        return
                    else:
                        self._answer("250 ok")

            def _mail(self, sender: str, recipients: list[str]) -> None:
                lines = []
                while (line := self.rfile.readline()) and line.rstrip(b"\r\n") != b".":
                    lines.append(line[1:] if line.startswith(b"..") else line)
                mail = message_from_bytes(b"".join(lines))
                said = {
                    "sender": sender,
                    "recipients": recipients,
                    "subject": mail["Subject"],
                    "text": mail.get_payload(),
                }
                ledger.note("email", mail["X-Weir-Notification"] or "", said)

            def _answer(self, line: str) -> None:
                self.wfile.write(line.encode() + b"\r\n")

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        return socketserver.ThreadingTCPServer(("127.0.0.1", port), Handler)
