"""Backends are found by name, and a wrong name stops the trainer at once."""

import pytest

from schemas.errors import ConfigurationError
from trainer.backends.base import backend
from trainer.backends.local import LOCAL


def test_a_backend_is_found_by_its_name() -> None:
    assert backend("local") is LOCAL


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigurationError, match=r"'nowhere', but local"):
        backend("nowhere")
