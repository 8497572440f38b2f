"""The words of the log: events, their bytes, and the ports every other package shares."""

__version__ = "0.1.0"
