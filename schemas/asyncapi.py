"""The log's contract as an AsyncAPI 3 document: ``python -m schemas.asyncapi > docs/asyncapi.json``.

Everything in it comes from the event classes. Source of the form: AsyncAPI specification 3.0.0 and
its Kafka bindings 0.5.0; the headers are those of the CloudEvents Kafka binding.
"""

from __future__ import annotations

import json
from typing import Any

from schemas import __version__
from schemas.avro import schema_of
from schemas.event import Event, Topic
from schemas.events import event_types, topics

AVRO = "application/vnd.apache.avro+json;version=1.9.0"
_KAFKA_BINDING = "0.5.0"

_HEADERS: dict[str, str] = {
    "ce_specversion": "Always 1.0.",
    "ce_id": "The event's id, a UUIDv7 (uuid5 for what a fold emits).",
    "ce_type": "The event's type.",
    "ce_source": "The process that produced it.",
    "ce_time": "When it occurred, RFC 3339 in UTC.",
    "ce_dataschema": "urn:weir:schema:TYPE:vVERSION.",
    "content-type": "application/avro",
}
_OPTIONAL_HEADERS: dict[str, str] = {
    "ce_correlationid": "The request or run that it belongs to.",
    "ce_causationid": "The event that caused it.",
    "ce_traceparent": "W3C trace context.",
    "weir-outbox": "The outbox that it was appended to.",
    "weir-seq": "Its sequence in that outbox: repeats are not above the highest one read.",
}


def document() -> dict[str, Any]:
    """Return the AsyncAPI document as plain JSON values."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Weir",
            "version": __version__,
            "description": (
                "Every event of the gateway. Values are Avro in single-object encoding "
                "(C3 01, fingerprint, body); headers are CloudEvents 1.0 in binary mode."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/avro",
        "channels": {_name(topic.name): _channel(topic) for topic in topics()},
        "operations": {
            f"read-{_name(topic.name)}": {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{_name(topic.name)}"},
            }
            for topic in topics()
        },
        "components": {
            "messages": {_name(event.type): _message(event) for event in event_types()},
            "schemas": {"headers": _headers()},
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    configuration: dict[str, Any] = {"cleanup.policy": [topic.cleanup]}
    configuration["retention.ms"] = -1 if topic.retention_ms is None else topic.retention_ms
    return {
        "address": topic.name,
        "messages": {
            _name(event.type): {"$ref": f"#/components/messages/{_name(event.type)}"}
            for event in event_types()
            if event.topic == topic
        },
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": configuration,
                "bindingVersion": _KAFKA_BINDING,
            }
        },
    }


def _message(event: type[Event]) -> dict[str, Any]:
    return {
        "name": event.type,
        "title": event.__name__,
        "summary": (event.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/avro",
        "headers": {"$ref": "#/components/schemas/headers"},
        "payload": {"schemaFormat": AVRO, "schema": schema_of(event)},
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": _KAFKA_BINDING}},
    }


def _headers() -> dict[str, Any]:
    described = _HEADERS | _OPTIONAL_HEADERS
    return {
        "type": "object",
        "required": list(_HEADERS),
        "properties": {
            name: {"type": "string", "description": text} for name, text in described.items()
        },
    }


def _name(dotted: str) -> str:
    """AsyncAPI's component keys take letters, digits, dots, dashes and underscores."""
    return dotted.replace("/", "-")


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))
