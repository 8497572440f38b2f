"""JSON lines to standard error: what happened, where, for which request, and never any content."""

import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

_FIELDS = (
    "request_id",
    "route",
    "status",
    "duration_ms",
    "model",
    "target",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "run_id",
)
"""What a log call may add by `extra=`; anything else, prompts above all, has no way in."""

_NOISY = ("aiokafka", "faust", "mode", "uvicorn.access", "asyncio", "httpx2", "kafka")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, part, logger, message, and the known fields."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """Render one record; an error carries its stack."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "part": self._part,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in _FIELDS:
            if (value := getattr(record, name, None)) is not None:
                line[name] = value
        if record.exc_info and record.exc_info[0] is not None:
            line["stack"] = "".join(traceback.format_exception(*record.exc_info))
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(part: str, level: str, file: Path | None = None) -> None:
    """Send all logging of this process as JSON lines to a file, or to standard error."""
    handler = logging.FileHandler(file) if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(part))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        # Clients repeat themselves on every attempt while a broker is away.
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
