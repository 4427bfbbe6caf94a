"""Logs of the server: text for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from missile_jax.options import LogOptions

# What every record has; all else was given with `extra`.
_USUAL = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message, what was given with `extra`, and the error."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event |= {k: v for k, v in record.__dict__.items() if k not in _USUAL and v is not None}
        if record.exc_info:
            event["error"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        seconds = super().formatTime(record, "%Y-%m-%dT%H:%M:%S")
        return f"{seconds}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """The same on a line: time, level, message, then what was given with `extra`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        extra = [
            f"{k}={v!r}" for k, v in record.__dict__.items() if k not in _USUAL and v is not None
        ]
        return " ".join((super().formatMessage(record), *extra))


def configure_logs(options: LogOptions) -> logging.Handler:
    """Writes what this package logs to standard error, and nowhere else. Returns the handler."""
    formatter = JsonFormatter() if options.format == "json" else TextFormatter()
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logger = logging.getLogger("missile_jax")
    logger.handlers = [handler]
    logger.setLevel(options.level.upper())
    logger.propagate = False
    return handler
