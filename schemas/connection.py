"""The same cluster in the words of each client library."""

import ssl
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.errors import BrokerUnavailable
from schemas.log import Connection

MAX_RECORD_BYTES = 16 * 1024 * 1024
"""The largest record that Weir's topics take."""


def librdkafka_options(connection: Connection) -> dict[str, Any]:
    """Options for confluent-kafka's clients."""
    options: dict[str, Any] = {
        "bootstrap.servers": connection.bootstrap,
        "security.protocol": connection.security_protocol,
        "log_level": 2,  # a broker that is away is reported by us, once, not on every attempt
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "socket.keepalive.enable": True,
    }
    optional = {
        "sasl.mechanism": connection.sasl_mechanism,
        "sasl.username": connection.sasl_username,
        "sasl.password": connection.sasl_password,
        "ssl.ca.location": connection.ca_file,
    }
    return options | {name: value for name, value in optional.items() if value is not None}


def aiokafka_options(connection: Connection) -> dict[str, Any]:
    """Options for aiokafka's clients."""
    options: dict[str, Any] = {
        "bootstrap_servers": connection.bootstrap,
        "security_protocol": connection.security_protocol,
    }
    if connection.sasl_mechanism is not None:
        options["sasl_mechanism"] = connection.sasl_mechanism
        options["sasl_plain_username"] = connection.sasl_username
        options["sasl_plain_password"] = connection.sasl_password
    if connection.security_protocol.endswith("SSL"):
        options["ssl_context"] = ssl.create_default_context(cafile=connection.ca_file)
    return options


async def start(client: AIOKafkaConsumer | AIOKafkaProducer, complaint: str) -> None:
    """Connect a client of aiokafka. Raises BrokerUnavailable with `complaint`; nothing is left open."""
    try:
        await client.start()
    except KafkaError as error:
        await client.stop()
        raise BrokerUnavailable(complaint) from error
