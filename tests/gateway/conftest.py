"""A gateway worker on a real socket, in front of the real sandbox."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway.worker import Worker, started
from tests.sandbox.served import Served, sandbox

__all__ = ["sandbox"]


@pytest.fixture(scope="session")
def worker(sandbox: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One worker for the tests that leave its health and routes alone."""
    with started(sandbox, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def own_worker(sandbox: Served, tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    """A worker of the test's own."""
    with started(sandbox, tmp_path) as running:
        yield running
