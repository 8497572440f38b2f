"""The control part: one FastAPI application of the routers that the packages bring, behind one door.

The gateway hands every path it does not serve itself to here. Whoever calls is known by an API
key of the log, or by the local operator's token; errors are those of `schemas.errors`.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from fastapi import APIRouter, FastAPI

import projections.api
import trainer.api
from infra.administration import Administration
from infra.alerting.component import Alerting
from infra.alerting.outstanding import DELIVERY, DeliverySettings
from infra.budgets_api import BudgetBoard, budgets_router
from infra.circuits_api import CircuitBoard, circuits_router
from infra.commercial_api import Commerce, commercial_router
from infra.docs_page import docs_router, tell_of_all
from infra.door import Door, Keys, install_errors
from infra.foresight_api import Foresight, foresight_router
from infra.heart import Heart
from infra.initialize import initialize
from infra.kafka import KafkaLog
from infra.metrics import metrics_router
from infra.realtime import Live
from infra.realtime_api import Realtime
from infra.repricing import Repricing
from infra.savings_api import SavingsBoard, savings_router
from infra.secret_files import operator_token
from infra.selftest import SelfTest, selftest_router
from infra.settings import circuit_rules, load
from infra.steering.component import Steering
from infra.system import system_router
from infra.words import settings_of
from schemas import __version__
from schemas.events.changes import (
    ProviderChanged,
    TargetChanged,
    TenantChanged,
)
from schemas.events.operations import Heartbeat
from schemas.key_view import KeyView
from schemas.log import Log
from schemas.table_view import TableView

SPANS_WANTED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CAUGHT_UP_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ControlSettings:
    """`weir_home` is the installation's folder; control listens on the loopback only. `docs` serves
    its API as a page; `alerts` says how long to try to tell people.
    """

    weir_home: Path
    host: str
    port: int
    docs: bool = False
    alerts: DeliverySettings = DELIVERY


OpenLog = Callable[[], AbstractAsyncContextManager[Log]]


class Component(Protocol):
    """What a package brings to control.

    `run` lives as long as control does; `ready` None means that it can serve, a text says why
    it cannot yet; `status` is shown at `/status` under the package's name.
    """

    @property
    def routers(self) -> Sequence[APIRouter]:
        """The package's endpoints."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Do the package's standing work until `stop`."""
        ...

    def ready(self) -> str | None:
        """Why requests cannot be served yet, None when they can."""
        ...

    def status(self) -> dict[str, Any]:
        """Figures for `/status`."""
        ...


_MakeComponent = Callable[[Any, Log, OpenLog], Component]
COMPONENTS: dict[str, _MakeComponent] = {
    "projections": projections.api.component,
    "trainer": trainer.api.component,
}


async def run(settings: ControlSettings, log: Log, stop: asyncio.Event) -> None:
    """Serve the administration API until `stop`. Any component's failure ends the part."""
    installation = load()
    components = {
        name: component(
            settings_of(name, installation), log, lambda: KafkaLog(log.connection, "/control")
        )
        for name, component in COMPONENTS.items()
    }
    components["administration"] = administration = Administration(log)
    components["alerts"] = alerting = Alerting(log, settings.alerts, administration.desk.auditor)
    components["repricing"] = Repricing(log, settings.weir_home / "repricing.json")
    keys, tenants, heartbeats = (
        KeyView(),
        TableView(TenantChanged),
        TableView(Heartbeat),
    )
    projected = components["projections"]
    assert isinstance(projected, projections.api.Projections)
    configured: list[TableView[Any]] = [TableView(ProviderChanged), TableView(TargetChanged)]
    views: list[TableView[Any]] = [keys, tenants, heartbeats, *configured]
    board = CircuitBoard(circuit_rules(installation.circuits))
    views += board.views
    budgets = BudgetBoard()
    views += budgets.views
    savings, commerce, foresight = SavingsBoard(), Commerce(), Foresight()
    views += [*savings.views, *commerce.views, *foresight.views]
    boards, training = (board, budgets, savings), components["trainer"]
    components["steering"] = Steering(
        log, administration, alerting, training, boards, heartbeats, projected.status
    )
    live = Live(budgets, board, alerting.book, heartbeats)
    components["realtime"] = Realtime(log, live, settings.weir_home, training.status)
    system = system_router(settings.weir_home, log.connection, components, configured, heartbeats)
    door = Keys(keys, operator_token(settings.weir_home), tenants)
    heart = Heart(log, lambda: door.refused)
    begin = partial(initialize, log.connection, installation)
    test = SelfTest(settings.weir_home, log, components, heartbeats, heart, begin)
    app = build(
        door,
        [
            system,
            selftest_router(test, administration.desk.auditor),
            circuits_router(board),
            budgets_router(budgets),
            savings_router(savings),
            commercial_router(commerce),
            foresight_router(foresight),
            metrics_router(projected, heartbeats),
            *([docs_router()] if settings.docs else []),
            *(router for part in components.values() for router in part.routers),
        ],
    )
    server = _server(app, settings)
    async with asyncio.TaskGroup() as group:
        group.create_task(log.follow(views, stop))
        group.create_task(heart.run(stop))
        for component in components.values():
            group.create_task(component.run(stop))
        if any(os.environ.get(name) for name in SPANS_WANTED):
            from infra.spans import SpanSender, otlp_exporter  # a tenth of a second

            file = settings.weir_home / "spans.json"
            sender = SpanSender(projected.projector, otlp_exporter(), file)
            group.create_task(sender.run(stop))
        await _caught_up(views, stop)
        group.create_task(_stop_server(server, stop))
        await server.serve()
        if not stop.is_set():
            raise RuntimeError("the HTTP server has ended by itself")


def _server(app: FastAPI, settings: ControlSettings) -> "_Server":
    return _Server(
        uvicorn.Config(
            app,
            settings.host,
            settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=10,
        )
    )


def build(keys: Keys, routers: Sequence[APIRouter]) -> FastAPI:
    """The application: the door first, then everybody's routers."""
    app = FastAPI(
        title="Weir",
        version=__version__,
        separate_input_output_schemas=False,  # one name for one form
        summary="An event-sourced LLM gateway: model calls, administration, analytics.",
        docs_url=None,  # its page loads scripts from a CDN: empty without a network
        redoc_url=None,
    )
    app.add_middleware(Door, keys=keys)
    install_errors(app)
    for router in routers:
        app.include_router(router)
    tell_of_all(app)
    return app


async def _caught_up(views: Sequence[TableView[Any]], stop: asyncio.Event) -> None:
    """Wait until keys are known; a broker that is away must not keep `/health` from answering."""
    waiting = [asyncio.create_task(view.caught_up.wait()) for view in views]
    stopping = asyncio.create_task(stop.wait())
    try:
        async with asyncio.timeout(_CAUGHT_UP_S):
            for task in waiting:
                await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        _log.warning("control starts before it has read its keys")
    finally:
        for task in (*waiting, stopping):
            task.cancel()


async def _stop_server(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True


class _Server(uvicorn.Server):
    """A server that leaves signals to the part: it ends when the part is told to."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield
