"""The builder for plain web pages: `bundle.py` in a process of its own. Needs nothing but the Python that runs this."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.builders import bundle
from pipeline.builders.command import CommandBuilder


def static_builder() -> CommandBuilder:
    """Checks HTML, CSS and JavaScript, writes them smaller. ``-I``: neither environment nor working directory count."""
    return CommandBuilder([sys.executable, "-I", str(Path(bundle.__file__))])
