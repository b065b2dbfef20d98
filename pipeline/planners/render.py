"""render(): fills a template. The whole language is ``{{ name }}`` and, in comments of the file, ``if name``, ``end``.

Pure. There is no way to put a value in unescaped: in HTML it becomes text (also inside quoted attributes), in
JavaScript a whole literal, in CSS only a number or a plain word. So a prompt may say what it likes: it stays a text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Collection, Mapping

Value = str | int

MARK = re.compile(
    r"[ \t]*(?:<!-- (?:if (?P<if1>\w+)|(?P<end1>end)) -->|/\* (?:if (?P<if2>\w+)|(?P<end2>end)) \*/)[ \t]*\n?"
    r"|\{\{ (?P<name>\w+) \}\}"
)
PLAIN = re.compile(r"[A-Za-z0-9.#-]{1,40}")


def _in_script(value: Value) -> str:
    """A JavaScript literal that also cannot end the script element or a line."""
    text = json.dumps(value)  # ASCII only: U+2028 and the like become escapes
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _in_style(value: Value) -> str:
    text = str(value)
    if not PLAIN.fullmatch(text):
        raise ValueError(f"{text[:40]!r} cannot stand in a style sheet")
    return text


ESCAPES: Mapping[str, Callable[[Value], str]] = {
    ".html": lambda value: html.escape(str(value), quote=True),
    ".js": _in_script,
    ".css": _in_style,
}


def render(template: str, suffix: str, values: Mapping[str, Value], features: Collection[str]) -> str:
    """The text of ``template`` with its values, and with those parts whose feature is wanted.

    suffix: .html, .js or .css. Raises KeyError for a name without a value, ValueError for marks that do not match.
    """
    escape = ESCAPES[suffix]
    kept: list[str] = []
    wanted: list[bool] = []
    at = 0
    for mark in MARK.finditer(template):
        if all(wanted):
            kept.append(template[at : mark.start()])
        at = mark.end()
        feature = mark["if1"] or mark["if2"]
        if feature:
            wanted.append(feature in features)
        elif mark["name"] is None:
            if not wanted:
                raise ValueError("`end` without `if`")
            wanted.pop()
        elif all(wanted):
            kept.append(escape(values[mark["name"]]))
    if wanted:
        raise ValueError("`if` without `end`")
    kept.append(template[at:])
    return "".join(kept)
