"""docs/settings.md names every variable that the program reads, with the words of the program, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foldstream.settings import VARIABLES

pytestmark = pytest.mark.pure

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_settings_page_is_the_table_of_the_program() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == dict(VARIABLES)
