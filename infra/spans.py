"""OpenTelemetry spans of calls, made from the log: a worker spends nothing on them and loses none.

Runs in control where ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``) is set; all else is
set by OpenTelemetry's own variables. Every call is a server span with the words of the ``gen_ai``
conventions, every attempt a client span below it whose id the provider got in ``traceparent``. Ids
follow from the request id, so a span that is sent twice after a crash is the same span.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from projections.database import Database
from projections.projector import Projector
from schemas import __version__
from schemas.events.llm import RESPONSES
from schemas.money import to_usd
from schemas.trace import Trace, trace_of

EVERY_S = 1.0
BATCH_ROWS = 2_000
OPERATIONS = {"images": "image_generation", "completions": "text_completion"}
_SELECT = """
SELECT r.*, q.traceparent, q.model_requested, q.strategy, q.dialect, q.endpoint, q.session_id,
       epoch_us(r.occurred_at) AS ended_us
FROM responses r LEFT JOIN requests q USING (request_id)
WHERE r.log_partition = ? AND r.log_offset >= ? AND r.log_offset < ?
ORDER BY r.log_offset LIMIT ?
"""
_log = logging.getLogger(__name__)

Row = Mapping[str, Any]
Positions = dict[int, int]


def otlp_exporter() -> SpanExporter:
    """Return the exporter that OpenTelemetry's variables describe."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def spans_of(row: Row, resource: Resource) -> Iterator[ReadableSpan]:
    """Yield the span of a call and those of its attempts.

    The log has no starts of attempts but their durations: they are set one after the other, the
    last ending with the call.
    """
    trace = trace_of(row["request_id"], row["traceparent"])
    end_ns = int(row["ended_us"]) * 1_000
    operation = OPERATIONS.get(row["surface"], row["surface"])
    requested = row["model_requested"] or row["model"] or ""
    common = {"gen_ai.operation.name": operation, "gen_ai.request.model": requested}
    yield _span(
        f"{operation} {requested}",
        trace,
        trace.span_id,
        trace.parent_id,
        SpanKind.SERVER,
        (end_ns - row["latency_us"] * 1_000, end_ns),
        {**common, **_call_attributes(row)},
        row["error_code"],
        resource,
    )
    attempt_end_ns = end_ns
    for number, attempt in reversed(list(enumerate(row["attempts"], 1))):
        start_ns = attempt_end_ns - attempt["latency_us"] * 1_000
        provider, _, model = attempt["target"].partition("/")
        yield _span(
            f"{operation} {model}",
            trace,
            trace.attempt(number),
            trace.span_id,
            SpanKind.CLIENT,
            (start_ns, attempt_end_ns),
            {
                **common,
                "gen_ai.provider.name": provider,
                "gen_ai.response.model": model,
                "weir.outcome": attempt["outcome"],
                "http.response.status_code": attempt["status"],
            },
            attempt["error_class"],
            resource,
        )
        attempt_end_ns = start_ns


def _call_attributes(row: Row) -> dict[str, Any]:
    cost = row["cost_nano_usd"]
    return {
        "gen_ai.provider.name": row["provider"],
        "gen_ai.response.model": row["model"],
        "gen_ai.response.finish_reasons": [row["finish_reason"]] if row["finish_reason"] else None,
        "gen_ai.usage.input_tokens": row["input_tokens"],
        "gen_ai.usage.output_tokens": row["output_tokens"],
        "gen_ai.conversation.id": row["session_id"],
        "http.response.status_code": row["status"],
        "url.path": row["endpoint"],
        "weir.request_id": row["request_id"],
        "weir.route": row["route"],
        "weir.strategy": row["strategy"],
        "weir.outcome": row["outcome"],
        "weir.cache": row["cache"],
        "weir.attempts": len(row["attempts"]),
        "weir.cost_usd": None if cost is None else to_usd(cost),
        "weir.team": row["team"],
        "weir.project": row["project"],
    }


def _span(
    name: str,
    trace: Trace,
    span_id: str,
    parent_id: str | None,
    kind: SpanKind,
    times_ns: tuple[int, int],
    attributes: Mapping[str, Any],
    error: str | None,
    resource: Resource,
) -> ReadableSpan:
    known = {key: value for key, value in attributes.items() if value is not None}
    if error:
        known["error.type"] = error
    return ReadableSpan(
        name=name,
        context=_context(trace, span_id),
        parent=None if parent_id is None else _context(trace, parent_id),
        resource=resource,
        attributes=known,
        kind=kind,
        status=Status(StatusCode.ERROR if error else StatusCode.UNSET),
        start_time=times_ns[0],
        end_time=times_ns[1],
        instrumentation_scope=InstrumentationScope("weir", __version__),
    )


def _context(trace: Trace, span_id: str) -> SpanContext:
    return SpanContext(
        int(trace.trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1)
    )


class SpanSender:
    """Sends the spans of what was projected, from a position that it keeps in a file.

    It begins with what comes after it was first switched on, and stays a beat behind, so that a
    call's admission is projected when its end is read.
    """

    def __init__(self, projector: Projector, exporter: SpanExporter, file: Path) -> None:
        self._projector = projector
        self._exporter = exporter
        self._file = file
        self._resource = Resource.create({"service.name": "weir", "service.version": __version__})
        self._limit: Positions | None = None
        self.sent = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop`. What could not be sent is tried again."""
        try:
            while not stop.is_set():
                more = False
                try:
                    if self._projector.caught_up.is_set():
                        more = await asyncio.to_thread(self.step)
                except OSError as error:
                    _log.warning("spans wait: %s", error)
                if not more:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), EVERY_S)
        finally:
            await asyncio.to_thread(self._exporter.shutdown)

    def step(self) -> bool:
        """Send what was committed before the last step; return whether there is more at once.

        Raises OSError when the receiver, or the position's file, does not take it.
        """
        database = self._projector.live()
        limit = self._limit
        self._limit = ends = dict(database.cursor().positions.get(RESPONSES.name, {}))
        at = self._load()
        if at is None:
            self._save(ends)
            return False
        more = False
        for partition, end in (limit or {}).items():
            rows = self._rows(database, partition, at.get(partition, 0), end)
            if not rows:
                continue
            self._send([span for row in rows for span in spans_of(row, self._resource)])
            at[partition] = rows[-1]["log_offset"] + 1
            self._save(at)
            more = more or len(rows) == BATCH_ROWS
        return more

    def _rows(self, database: Database, partition: int, start: int, end: int) -> list[Row]:
        rows: list[Row] = []
        rows.extend(database.records(_SELECT, [partition, start, end, BATCH_ROWS]))
        return rows

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise OSError("the receiver of spans does not take them")
        self.sent += len(spans)

    def _load(self) -> Positions | None:
        try:
            return {int(part): at for part, at in json.loads(self._file.read_text()).items()}
        except FileNotFoundError:
            return None

    def _save(self, positions: Positions) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(positions))
        temporary.replace(self._file)
