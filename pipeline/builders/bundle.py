"""bundle.py SOURCE OUT: check a folder of HTML, CSS and JavaScript and write it, smaller, to another. A program.

It runs as a process of its own (`python -I bundle.py`), so it imports nothing of foldstream, and its output is what
viewers see: each line begins with its stage in brackets. Exit code 1 means that the files are not fit to publish.
It ends when its standard input ends: a worker that dies takes its bundler along.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

VOID = frozenset(re.findall(r"\w+", "area base br col embed hr img input link meta param source track wbr"))
OPTIONAL = frozenset(re.findall(r"\w+", "body dd dt head html li optgroup option p tbody td tfoot th thead tr"))
"""Elements without an end tag, and elements whose end tag may be left out."""

LINKS = frozenset({"src", "href", "poster"})


class Fault(Exception):
    """Something in the files is not as it must be."""


def say(stage: str, text: str) -> None:
    """One line of the log. Lines leave together at the end of their stage: a stage is an event, not a flood."""
    sys.stdout.write(f"[{stage}] {text}\n")


class Page(HTMLParser):
    """Reads a page once: are its elements closed, its ids unique, and what does it refer to?"""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.name = name
        self.open: list[tuple[str, int]] = []
        self.ids: set[str] = set()
        self.refers: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        for tag, line in self.open:
            if tag not in OPTIONAL:
                raise Fault(f"{name}:{line}: <{tag}> is never closed")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(tag, attrs)
        if tag not in VOID:
            self.open.append((tag, self.getpos()[0]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        while self.open and self.open[-1][0] != tag and self.open[-1][0] in OPTIONAL:
            self.open.pop()
        if not self.open or self.open[-1][0] != tag:
            inside = f" inside <{self.open[-1][0]}> of line {self.open[-1][1]}" if self.open else ""
            raise Fault(f"{self.name}:{self.getpos()[0]}: </{tag}> closes nothing{inside}")
        self.open.pop()

    def _look(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value is not None:
                if value in self.ids:
                    raise Fault(f"{self.name}:{self.getpos()[0]}: the id {value!r} stands twice")
                self.ids.add(value)
            elif name in LINKS and value and not (tag == "a" and urlsplit(value).scheme):
                self.refers.append((value, f"{self.name}:{self.getpos()[0]}"))


PAIRS: Mapping[str, str] = {")": "(", "]": "[", "}": "{"}
SCRIPT = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|/\*.*?\*/)|(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"""|(?P<word>[A-Za-z_$0-9][\w$.]*)|(?P<bracket>[()\[\]{}])|(?P<template>`)|(?P<slash>/)|(?P<other>.)""",
    re.DOTALL,
)
REGEX = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*")
TEMPLATE = re.compile(r"(?:[^`\\$]|\\.|\$(?!\{))*", re.DOTALL)
BEFORE_REGEX = frozenset(re.findall(r"\w+", "return typeof case in of delete void throw new else do await yield"))


def check_script(name: str, text: str) -> None:
    """Brackets, strings, templates and comments of a script must close. Not a parser, but it finds torn files."""
    opened: list[tuple[str, int]] = []  # the brackets that are open; "`" stands for the ${ of a template
    before, at = "", 0

    def fault(what: str) -> Fault:
        return Fault(f"{name}:{text.count(chr(10), 0, at) + 1}: {what}")

    while at < len(text):
        token = SCRIPT.match(text, at)
        assert token is not None  # `other` takes any character
        kind, word = token.lastgroup, token.group()
        end = token.end()
        if kind == "template" or (word == "}" and opened and opened[-1][0] == "`"):
            if kind != "template":
                opened.pop()
            span = TEMPLATE.match(text, end)
            assert span is not None  # it may match nothing
            end = span.end()
            if text.startswith("${", end):
                opened.append(("`", at))
                end += 2
            elif text.startswith("`", end):
                end += 1
            else:
                raise fault("a template string is never closed")
        elif kind == "bracket":
            if word not in PAIRS:
                opened.append((word, at))
            elif not opened or opened.pop()[0] != PAIRS[word]:
                raise fault(f"{word} closes nothing")
        elif kind == "slash" and (before == "" or before in BEFORE_REGEX or before[-1] in "(,=:[!&|?{};+-*%<>~^"):
            expression = REGEX.match(text, at)
            if expression is not None:
                end = expression.end()
        elif kind == "other" and word in "\"'":
            raise fault("a string is never closed")
        if kind != "blank":
            before = "`" if kind == "template" else word
        at = end
    if opened:
        at = opened[-1][1]
        raise fault(f"{opened[-1][0].replace('`', '${')} is never closed")


STYLE = re.compile(r"""(/\*.*?\*/)|("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|([^"'/]+)|(.)""", re.DOTALL)
URLS = re.compile(r"""url\(\s*(["']?)(.*?)\1\s*\)|@import\s+(["'])(.*?)\3""")


def check_style(name: str, text: str) -> None:
    """Braces, strings and comments of a style sheet must close."""
    depth = 0
    for token in STYLE.finditer(text):
        _, _, plain, alone = token.groups()
        line = text.count("\n", 0, token.start()) + 1
        if alone in {'"', "'"} or (alone == "/" and text.startswith("/*", token.start())):
            raise Fault(f"{name}:{line}: a string or a comment is never closed")
        for brace in re.findall("[{}]", plain or ""):
            depth += 1 if brace == "{" else -1
            if depth < 0:
                raise Fault(f"{name}:{line}: }} closes nothing")
    if depth:
        raise Fault(f"{name}: {{ is never closed")


def smaller_style(text: str) -> str:
    """Without comments, with single spaces, without the spaces that never mean anything."""
    pieces = [" " if comment else string or plain or alone for comment, string, plain, alone in STYLE.findall(text)]
    loose = re.split(r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""", "".join(pieces))
    loose[::2] = [re.sub(r" ?([{};,]) ?", r"\1", re.sub(r"\s+", " ", piece)).replace(";}", "}") for piece in loose[::2]]
    return "".join(loose).strip() + "\n"


KEPT = re.compile(r"(<(pre|textarea|script|style)\b.*?</\2\s*>)", re.DOTALL | re.IGNORECASE)


def smaller_page(text: str) -> str:
    """Without comments and without the indentation of lines, except where white space is content."""
    pieces = KEPT.split(text)
    kept = pieces[1::3]
    loose = [re.sub(r"\s*\n\s*", "\n", re.sub(r"<!--.*?-->", "", piece, flags=re.DOTALL)) for piece in pieces[::3]]
    return "".join(part for pair in zip(loose, [*kept, ""], strict=True) for part in pair).strip() + "\n"


SMALLER: Mapping[str, Callable[[str], str]] = {".css": smaller_style, ".html": smaller_page}
TEXT = frozenset({".html", ".css", ".js", ".json", ".svg", ".txt"})


def read(source: Path) -> dict[str, bytes]:
    """Every file of the folder; links do not count."""
    found = {}
    for above, _, names in os.walk(source):
        for name in names:
            path = Path(above, name)
            if not name.startswith(".") and not path.is_symlink():
                found[path.relative_to(source).as_posix()] = path.read_bytes()
    return dict(sorted(found.items()))


def references(name: str, text: str) -> Iterator[tuple[str, str]]:
    """(address, place) of all that a page or a style sheet refers to."""
    if name.endswith(".html"):
        yield from Page(name, text).refers
    elif name.endswith(".css"):
        for match in URLS.finditer(text):
            yield match.group(2) or match.group(4) or "", name


def resolve(files: Mapping[str, bytes], texts: Mapping[str, str]) -> None:
    """Every file that is referred to must be there."""
    if "index.html" not in files:
        raise Fault("there is no index.html to begin with")
    for name, text in texts.items():
        used = []
        for address, place in references(name, text):
            parts = urlsplit(address)
            if parts.scheme in {"data", "blob"} or not (parts.path or parts.netloc):
                continue
            if parts.scheme or parts.netloc:
                say("dependencies", f"warning: {place}: {address[:80]} will not load: previews ask no other server")
                continue
            if parts.path.startswith("/"):
                raise Fault(f"{place}: {address[:80]} must be relative, such as ./{parts.path.lstrip('/')[:60]}")
            target = os.path.normpath(os.path.join(os.path.dirname(name), unquote(parts.path)))
            target = "index.html" if target == "." else target
            if target not in files and f"{target}/index.html" not in files:
                raise Fault(f"{place}: {address[:80]} is missing")
            used.append(target)
        if used:
            say("dependencies", f"{name} uses {', '.join(dict.fromkeys(used))}")


def compile_all(texts: Mapping[str, str]) -> None:
    """Every file must be whole."""
    for name, text in texts.items():
        if name.endswith(".html"):
            Page(name, text)
        elif name.endswith(".css"):
            check_style(name, text)
        elif name.endswith(".js"):
            check_script(name, text)
        elif name.endswith(".json"):
            try:
                json.loads(text)
            except ValueError as error:
                raise Fault(f"{name}: {error}") from error
        say("compile", f"{name} is sound, {text.count(chr(10)) + 1} lines")


def optimize(files: Mapping[str, bytes], texts: Mapping[str, str], out: Path) -> None:
    """Write everything, smaller where that is safe."""
    total = packed = 0
    for name, content in files.items():
        shrink = SMALLER.get(Path(name).suffix)
        result = shrink(texts[name]).encode() if shrink and name in texts else content
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(result)
        zipped = len(gzip.compress(result, mtime=0))
        total, packed = total + len(result), packed + zipped
        say("optimize", f"{name} {len(content):,} -> {len(result):,} bytes, {zipped:,} gzipped")
    say("optimize", f"{len(files)} files, {total:,} bytes, {packed:,} gzipped")


def bundle(source: Path, out: Path) -> None:
    """Check, then write. Raises Fault, and OSError for what the disk says."""
    files = read(source)
    say("dependencies", f"found {len(files)} files, {sum(map(len, files.values())):,} bytes")
    texts = {}
    for name, content in files.items():
        if Path(name).suffix in TEXT:
            try:
                texts[name] = content.decode()
            except UnicodeDecodeError as error:
                raise Fault(f"{name} is not UTF-8 text") from error
    resolve(files, texts)
    sys.stdout.flush()
    compile_all(texts)
    sys.stdout.flush()
    optimize(files, texts, out)


def end_with_parent() -> None:
    """Standard input is a pipe from the worker; it ends only when the worker does."""
    while os.read(0, 1024):  # not through sys.stdin, whose lock would be held when the program ends
        pass
    os._exit(2)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        bundle(Path(sys.argv[1]), Path(sys.argv[2]))
    except Fault as fault:
        say("error", str(fault))
        sys.exit(1)
