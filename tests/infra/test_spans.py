"""Spans from the log to a receiver that speaks OTLP over HTTP, on a real socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from infra.spans import SpanSender
from projections.database import Database
from projections.decode import decode_batch
from projections.projection import projections
from schemas.event import Event
from schemas.events.llm import Attempt
from schemas.identity import uuid7
from schemas.log import Cursor
from schemas.trace import checked, trace_of
from tests.projections.records import Appender, admitted, event

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Receiver(HTTPServer):
    """Takes spans, or refuses them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuses = False
        self.spans: list[Any] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self.server.refuses:
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.server.spans.extend(scope.spans)
        self.send_response(400 if self.server.refuses else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.shutdown()
    running.server_close()


class Projected:
    """Stands where the sender looks for the projector: a database, nothing more."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "spans.duckdb", projections())
        self.appender, self.cursor = Appender(), Cursor()

    def live(self) -> Database:
        return self.database

    def add(self, *items: Event) -> None:
        records = self.appender.records(items)
        for record in records:
            self.cursor.positions.setdefault(record.topic, {})[record.partition] = record.offset + 1
        self.database.apply(decode_batch(records, self.database.event_types).rows, self.cursor)


def call(request_id: str, traceparent: str | None) -> tuple[Event, Event]:
    attempts = [
        Attempt("openai/gpt", "failed", "server", 500, 20_000, None),
        Attempt("anthropic/claude", "success", None, 200, 70_000, None),
    ]
    asked = admitted(request_id, traceparent=traceparent, model_requested="support")
    ended = event(
        "weir.llm.response.completed",
        request_id=request_id,
        attempts=attempts,
        latency_us=100_000,
        surface="chat",
        model="claude",
        error_code=None,
        cost_nano_usd=1_500_000,
    )
    return asked, ended


@pytest.mark.req("BEY-14")
def test_a_call_is_one_trace_from_its_caller_to_its_providers(
    receiver: Receiver, tmp_path: Path
) -> None:
    projected = Projected(tmp_path)
    url = f"http://127.0.0.1:{receiver.server_port}/v1/traces"
    sender = SpanSender(projected, OTLPSpanExporter(url), tmp_path / "spans.json")  # type: ignore[arg-type]
    projected.add(*call(uuid7(), None))
    sender.step()
    request_id = uuid7()
    projected.add(*call(request_id, PARENT))
    for _ in range(3):
        sender.step()
    spans = {span.name: span for span in receiver.spans}
    assert len(receiver.spans) == 3, "what came before it was switched on is not sent"
    server, last, first = (spans[f"chat {name}"] for name in ("support", "claude", "gpt"))
    trace = trace_of(request_id, PARENT)
    assert {span.trace_id.hex() for span in spans.values()} == {PARENT.split("-")[1]}
    assert server.parent_span_id.hex() == PARENT.split("-")[2]
    assert first.parent_span_id == last.parent_span_id == server.span_id
    assert [first.span_id.hex(), last.span_id.hex()] == [trace.attempt(1), trace.attempt(2)]
    assert server.end_time_unix_nano - server.start_time_unix_nano == 100_000_000
    assert first.end_time_unix_nano == last.start_time_unix_nano
    said = {item.key: item.value for item in server.attributes}
    assert said["gen_ai.request.model"].string_value == "support"
    assert said["weir.cost_usd"].string_value == "0.0015"
    assert {item.key for item in first.attributes} >= {"error.type", "gen_ai.provider.name"}


@pytest.mark.req("BEY-14")
def test_spans_wait_for_a_receiver_that_is_away_and_are_sent_once(
    receiver: Receiver, tmp_path: Path
) -> None:
    projected = Projected(tmp_path)
    url = f"http://127.0.0.1:{receiver.server_port}/v1/traces"

    def sender() -> SpanSender:
        file = tmp_path / "spans.json"
        return SpanSender(projected, OTLPSpanExporter(url, timeout=2), file)  # type: ignore[arg-type]

    first = sender()
    projected.add(*call(uuid7(), None))
    first.step()
    projected.add(*call(uuid7(), None))
    first.step()
    receiver.refuses = True
    with pytest.raises(OSError, match="receiver"):
        first.step()
    receiver.refuses = False
    restarted = sender()
    for _ in range(3):
        restarted.step()
    assert len(receiver.spans) == 3


@pytest.mark.req("BEY-14")
@pytest.mark.parametrize(
    "wrong",
    [None, "", "00-x-y-01", PARENT + "0", PARENT.upper(), f"00-{'0' * 32}-{'a' * 16}-01"],
)
def test_a_wrong_context_begins_a_trace_of_our_own(wrong: str | None) -> None:
    request_id = uuid7()
    assert checked(wrong) is None
    assert trace_of(request_id, None).trace_id == request_id.replace("-", "")
    assert checked(PARENT) == PARENT
