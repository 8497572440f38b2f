"""An existing cluster with SASL and TLS, as `weir up --kafka HOST:PORT` uses it."""

import datetime
import ipaddress
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, Popen

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.broker import Broker, BrokerSettings, free_port, serves
from infra.kafka import KafkaLog
from infra.topics import ensure_topics
from schemas.clock import now_us
from schemas.errors import BrokerUnavailable
from schemas.events.operations import HEARTBEATS, Heartbeat
from schemas.identity import uuid7
from schemas.log import Connection

LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weir-test")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    certificate_file, both = folder / "ca.pem", folder / "keystore.pem"
    certificate_file.write_bytes(signed.public_bytes(pem))
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both.write_bytes(private + signed.public_bytes(pem))
    return certificate_file, both


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Connection]:
    """A broker that takes only SASL over TLS."""
    ca_file, keystore = certificate(tmp_path)
    broker = Broker(BrokerSettings(tmp_path / "kafka", free_port(), free_port()))
    broker.prepare()
    with (tmp_path / "kafka" / "server.properties").open("a") as properties:
        properties.write(
            "listener.security.protocol.map=PLAINTEXT:SASL_SSL,CONTROLLER:PLAINTEXT\n"
            "sasl.enabled.mechanisms=PLAIN\nsasl.mechanism.inter.broker.protocol=PLAIN\n"
            f'listener.name.plaintext.plain.sasl.jaas.config={LOGIN} username="admin" '
            'password="inner" user_admin="inner" user_weir="secret";\n'
            f"ssl.keystore.type=PEM\nssl.keystore.location={keystore}\n"
            f"ssl.truststore.type=PEM\nssl.truststore.location={ca_file}\n"
        )
    connection = Connection(
        broker.bootstrap,
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username="weir",
        sasl_password="secret",
        ca_file=str(ca_file),
    )
    with broker.log_file.open("ab") as log:
        process = Popen(broker.command(), stdout=log, stderr=log, stdin=DEVNULL)
    deadline = time.monotonic() + 60
    while not serves(connection):
        assert process.poll() is None, broker.log_file.read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield connection
    process.kill()
    process.wait()


async def test_the_log_works_over_sasl_and_tls(cluster: Connection) -> None:
    await ensure_topics(cluster, [HEARTBEATS])
    event = Heartbeat(
        event_id=uuid7(), occurred_at_us=now_us(), part="p", instance="1", started_at_us=0
    )
    async with KafkaLog(cluster) as log:
        await log.publish(event)
        async with log.reader([HEARTBEATS]) as reader:
            [record] = await reader.batch(10, 10)
    assert record.key == b"p"

    async with KafkaLog(msgspec.structs.replace(cluster, sasl_password="wrong")) as log:
        with pytest.raises(BrokerUnavailable):
            async with log.reader([HEARTBEATS]):
                pass
