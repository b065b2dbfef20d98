"""Logs: one line each, on stderr. Never a token: addresses are logged without their query."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logs(level: int = logging.WARNING) -> None:
    """Called once by a command, first of all. Warnings and worse are said; the rest is for metrics and tests."""
    logging.basicConfig(level=level, format=FORMAT, stream=sys.stderr, force=True)
