"""`GET /metrics` for Prometheus: the log's totals, and how the parts are now.

One scrape of any worker's address gives the whole installation: it is answered by control, from
the projections, so it does not matter how many workers there are or how often they were restarted.
"""

from collections import Counter
from collections.abc import Iterator

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from projections.api import Projections
from projections.metrics import LogMetrics, gauge
from schemas import __version__
from schemas.clock import now_us
from schemas.events.operations import Heartbeat
from schemas.table_view import TableView


class PartMetrics(Collector):
    """Heartbeats, and how far the projections are behind."""

    def __init__(self, heartbeats: TableView[Heartbeat], projections: Projections) -> None:
        self._heartbeats = heartbeats
        self._projections = projections

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        beats = list(self._heartbeats.entries.values())
        ages = [([beat.part], (now_us() - beat.occurred_at_us) / 1e6) for beat in beats]
        lags = [([beat.part], float(beat.lag)) for beat in beats if beat.lag is not None]
        late: Counter[str] = Counter()
        for beat in beats:
            late.update(beat.late)  # several processes share a fold
        counts = [([fold], float(count)) for fold, count in sorted(late.items())]
        behind: list[tuple[list[str], float]] = [
            ([], float(self._projections.projector.status.lag_records or 0))
        ]
        yield gauge("weir_heartbeat_age_seconds", "Since a part was heard.", ages, ["part"])
        yield gauge("weir_lag_records", "Records that a part is behind.", lags, ["part"])
        yield gauge("weir_late_records", "Came after their rows had expired.", counts, ["fold"])
        yield gauge("weir_projection_lag_records", "Records not projected yet.", behind, [])
        yield gauge("weir_info", "The version that runs.", [([__version__], 1.0)], ["version"])


def metrics_router(projections: Projections, heartbeats: TableView[Heartbeat]) -> APIRouter:
    """The route."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LogMetrics(projections.projector.live))
    registry.register(PartMetrics(heartbeats, projections))
    router = APIRouter(tags=["system"])

    @router.get(
        "/metrics",
        summary="Prometheus metrics of the whole installation",
        response_class=PlainTextResponse,
    )
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
