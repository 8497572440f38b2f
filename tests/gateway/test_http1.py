"""The HTTP client against servers that do what servers do."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.http1 import STALE_AFTER_S, Origin, Pool
from gateway.upstream import Failed, lines_of
from schemas.errors import UpstreamNetwork, UpstreamProtocol, UpstreamTimeout
from tests.gateway.states import provider

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield Origin("127.0.0.1", server.sockets[0].getsockname()[1], tls is not None)


def answering(answer: bytes, *, close: bool = False) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.read(65536)) and not writer.is_closing():
            writer.write(answer)
            await writer.drain()
            if close:
                break
        writer.close()

    return handle


async def whole(pool: Pool, origin: Origin, *, first_byte_s: float = 2.0) -> bytes:
    connection = await pool.exchange(origin, HEAD, b"", connect_s=2.0, first_byte_s=first_byte_s)
    body = b""
    while data := await connection.read(2.0):
        body += data
    connection.done()
    return body


@pytest.mark.req("GW-13")
async def test_connections_are_used_again() -> None:
    opened = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await answering(OK)(reader, writer)

    async with serving(handle) as origin:
        pool = Pool()
        for _ in range(5):
            assert await whole(pool, origin) == b"ok"
        assert opened == 1
        pool.close()


async def test_a_connection_that_was_closed_while_idle_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        while await reader.read(65536):
            requests += 1
            if requests == 2:  # the race: closed just as the next request arrives
                writer.transport.abort()
                return
            writer.write(OK)

    async with serving(handle) as origin:
        pool = Pool()
        assert await whole(pool, origin) == b"ok"
        with pytest.raises(UpstreamNetwork):  # too soon to be a stale connection: it is a failure
            await whole(pool, origin)
        requests = 0
        assert await whole(pool, origin) == b"ok"
        monkeypatch.setattr("gateway.http1.STALE_AFTER_S", -1.0)
        assert STALE_AFTER_S > 0
        assert await whole(pool, origin) == b"ok"
        assert requests == 3
        pool.close()


@pytest.mark.parametrize(
    ("answer", "close", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            False,
            b"abc",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", True, b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", True, b"old"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, False, b"ok"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
            % len(gzip.compress(b"packed", mtime=0))
            + gzip.compress(b"packed", mtime=0),
            False,
            b"packed",
        ),
    ],
    ids=["chunked", "until close", "1.0", "early hints", "gzip"],
)
async def test_bodies_of_every_framing(answer: bytes, close: bool, body: bytes) -> None:
    async with serving(answering(answer, close=close)) as origin:
        pool = Pool()
        assert await whole(pool, origin) == body
        pool.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort", UpstreamNetwork),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", UpstreamNetwork),
        (b"garbage garbage\r\n\r\n", UpstreamProtocol),
        (b"", UpstreamNetwork),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 1\r\n\r\nx",
            UpstreamProtocol,
        ),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", UpstreamProtocol),
    ],
    ids=["short", "cut chunk", "garbage", "nothing", "unknown coding", "huge headers"],
)
async def test_broken_answers_are_errors(answer: bytes, error: type[Exception]) -> None:
    async with serving(answering(answer, close=True)) as origin:
        pool = Pool()
        with pytest.raises(error):
            await whole(pool, origin)
        pool.close()


@pytest.mark.req("BEY-09")
async def test_silence_and_refusal_have_their_own_limits() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        await asyncio.sleep(5)
        writer.close()

    pool = Pool()
    async with serving(silent) as origin:
        with pytest.raises(UpstreamTimeout):
            await whole(pool, origin, first_byte_s=0.1)
    with pytest.raises(UpstreamNetwork):
        await whole(pool, Origin("127.0.0.1", 1, tls=False))
    with pytest.raises(UpstreamNetwork):
        await whole(pool, Origin("no-such-host.invalid", 80, tls=False))
    pool.close()


async def test_the_pool_is_bounded_and_its_queue_moves() -> None:
    running = highest = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal running, highest
        while await reader.read(65536):
            running += 1
            highest = max(highest, running)
            await asyncio.sleep(0.02)
            running -= 1
            writer.write(OK)
        writer.close()

    async with serving(handle) as origin:
        pool = Pool(connections_max=3)
        bodies = await asyncio.gather(*(whole(pool, origin) for _ in range(12)))
        assert bodies == [b"ok"] * 12
        assert highest == 3
        held = [
            await pool.exchange(origin, HEAD, b"", connect_s=1.0, first_byte_s=1.0)
            for _ in range(3)
        ]
        with pytest.raises(UpstreamTimeout):
            await pool.exchange(origin, HEAD, b"", connect_s=0.05, first_byte_s=1.0)
        for connection in held:
            connection.done()
        assert await whole(pool, origin) == b"ok"
        pool.close()


async def test_leaving_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while await reader.read(65536):
            pass
        gone.set()
        writer.close()

    async with serving(handle) as origin:
        pool = Pool()
        connection = await pool.exchange(origin, HEAD, b"", connect_s=1.0, first_byte_s=1.0)
        connection.done()
        async with asyncio.timeout(2):
            await gone.wait()
        pool.close()


async def test_tls_is_verified(tmp_path: Path) -> None:
    cert, private = _certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, private)
    async with serving(answering(OK), tls) as origin:
        trusting = Pool(ca_file=str(cert))
        assert await whole(trusting, origin) == b"ok"
        trusting.close()
        strict = Pool()
        with pytest.raises(UpstreamNetwork):
            await whole(strict, origin)
        strict.close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    from datetime import UTC, datetime, timedelta
    from ipaddress import IPv4Address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(private, hashes.SHA256())
    )
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, key


@pytest.mark.parametrize("value", ["two\r\nlines", "\U000eacf1"])
def test_a_header_that_cannot_be_sent_is_the_providers_fault(value: str) -> None:
    row = provider("odd", "openai", "http://x", headers={"x-team": value})
    with pytest.raises(Failed, match="provider odd"):
        lines_of(row, row.headers)
