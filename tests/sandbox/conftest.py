"""The running sandbox of these tests."""

from tests.sandbox.served import sandbox

__all__ = ["sandbox"]
