"""What a prompt asks for, understood without any model: the kind of app, its title, its features, its colour.

Pure and deterministic: the same prompt is read the same way on every machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

KINDS: Mapping[str, str] = {
    "todo": r"to-?do|to do|todos?|tasks?|check-?lists?|shopping list|groceries|grocery|reminders?|kanban",
    "landing": r"landing|home ?pages?|web ?sites?|product page|portfolio|start-?up|marketing|shop|store|agency",
    "blog": r"blogs?|articles?|posts?|journal|magazine|news|diary|stories",
    "dashboard": r"dashboards?|analytics|metrics|admin|charts?|statistics|stats|kpis?|reports?|monitoring",
    "game": r"games?|snake|arcade|play|memory|puzzle|score",
}
"""The words that speak for a kind of app. The kind whose word comes first in the prompt is meant; none: landing."""

FALLBACK = "landing"

FEATURES: Mapping[str, Mapping[str, str]] = {
    "todo": {
        "dark": r"dark|night|themes",
        "search": r"search|find|look ?up",
        "due": r"due|dates?|deadlines?|calendar",
        "priority": r"priorit\w*|urgent|important",
    },
    "landing": {
        "dark": r"dark|night|themes",
        "pricing": r"pric\w+|plans?|subscriptions?|tiers?",
        "faq": r"faqs?|questions?",
        "testimonials": r"testimonials?|reviews?|quotes?|customers?",
        "contact": r"contact|message|booking|book|reach",
    },
    "blog": {"dark": r"dark|night|themes", "search": r"search|find|look ?up"},
    "dashboard": {
        "dark": r"dark|night|themes",
        "search": r"search|find|look ?up|filter\w*",
        "export": r"export|csv|download|excel",
    },
    "game": {"dark": r"dark|night|themes", "memory": r"memory|pairs?|cards?|match\w*"},
}
"""Which words of a prompt switch on which parts of the templates."""

COLORS: Mapping[str, tuple[int, int, int]] = {
    "blue": (221, 83, 53),
    "purple": (262, 83, 58),
    "pink": (333, 71, 48),
    "red": (0, 72, 48),
    "orange": (21, 90, 40),
    "green": (142, 76, 28),
    "teal": (175, 84, 26),
    "indigo": (243, 75, 59),
}
"""Hue, saturation, lightness: white text on each has a contrast of at least 4.5."""

SYNONYMS: Mapping[str, str] = {
    "violet": "purple",
    "lilac": "purple",
    "turquoise": "teal",
    "cyan": "teal",
    "rose": "pink",
}

TAGLINES: Mapping[str, str] = {
    "todo": "Everything that is to be done, in one calm place.",
    "landing": "All that you need, and nothing in the way.",
    "blog": "Notes, lessons and conversations.",
    "dashboard": "The figures that matter, at a glance.",
    "game": "One more round?",
}

LEAD = re.compile(
    r"^(please|kindly|can you|could you|i want|i need|i would like|i'd like|we need|let's|to|you to|"
    r"create|build|make|generate|write|design|code|develop|give|show|me|us|an?|the|my|our|some|"
    r"simple|small|little|basic|modern|beautiful|nice|clean|cool|new|responsive|minimal)(?![-\w])[\s,:]*",
    re.IGNORECASE,
)
TAIL = re.compile(
    r"\s+(with|that|which|where|featuring|including|using|and|in (?:a |the )?\w+ (?:style|theme|colou?rs?))\b.*$",
    re.IGNORECASE | re.DOTALL,
)
CALLED = re.compile(r"\b(?:called|named|titled|entitled)\s+(?:the\s+)?([\w&'’.\- ]{2,60})", re.IGNORECASE)
QUOTED = re.compile(r"[\"“«]([^\"”»\n]{2,60})[\"”»]")
ABOUT = re.compile(r"\b(?:about|on|for)\s+(?:an?\s+|the\s+|my\s+|our\s+)?(.+)$", re.IGNORECASE | re.DOTALL)
SMALL = frozenset(["a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"])
TITLE_CHARACTERS = 40
TITLE_BYTES = 90


@dataclass(frozen=True, slots=True)
class Reading:
    """What was understood."""

    kind: str
    title: str
    subject: str
    features: tuple[str, ...]
    color: str


def read(prompt: str) -> Reading:
    """Understand ``prompt``; any text gives something."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in prompt).split())
    kind = _kind(text)
    subject = _subject(text)
    title = _title(text, subject if kind in {"landing", "blog"} else "")
    features = tuple(name for name, words in FEATURES[kind].items() if _has(words, text))
    return Reading(kind, title, subject or title, features, _color(text))


def _has(words: str, text: str) -> bool:
    return re.search(rf"\b(?:{words})\b", text, re.IGNORECASE) is not None


def _kind(text: str) -> str:
    found = {kind: re.search(rf"\b(?:{words})\b", text, re.IGNORECASE) for kind, words in KINDS.items()}
    places = [(match.start(), kind) for kind, match in found.items() if match]
    return min(places)[1] if places else FALLBACK


def _color(text: str) -> str:
    names = "|".join([*COLORS, *SYNONYMS])
    match = re.search(rf"\b({names})\b", text, re.IGNORECASE)
    if match:
        name = match.group(1).lower()
        return SYNONYMS.get(name, name)
    return list(COLORS)[number(text) % len(COLORS)]


def number(text: str) -> int:
    """A number that stands for a text, the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:4])


def _title(text: str, subject: str) -> str:
    """What is named or quoted; for pages about something, that; else what is to be built."""
    for pattern in (QUOTED, CALLED):
        named = pattern.search(text)
        if named:
            return _shorten(TAIL.sub("", named.group(1)).strip(" .,;:!?-'’")) or "My App"
    return _shorten(_capitals(subject or _core(text))) or "My App"


def _core(text: str) -> str:
    """``Please create a todo app with dark mode.`` -> ``todo app``."""
    sentence = re.split(r"[.!?;\n]\s|[.!?;]$", text, maxsplit=1)[0]
    while (shorter := LEAD.sub("", sentence, count=1)) != sentence:
        sentence = shorter
    return TAIL.sub("", sentence).strip(" .,;:!?-")


def _subject(text: str) -> str:
    """What it is about, for running text: ``a blog about sourdough bread`` -> ``sourdough bread``; or nothing."""
    about = ABOUT.search(_core(text))
    return _shorten(about.group(1).strip(' .,;:!?-"“”')) if about else ""


def _capitals(text: str) -> str:
    words = text.split(" ")
    return " ".join(
        word if index and word.lower() in SMALL else word[:1].upper() + word[1:] for index, word in enumerate(words)
    )


def _shorten(text: str) -> str:
    """At most TITLE_CHARACTERS (and 90 bytes, for the log), cut between words where there are any."""
    if len(text) <= TITLE_CHARACTERS and len(text.encode()) <= TITLE_BYTES:
        return text
    cut = text[: TITLE_CHARACTERS - 1].encode()[:TITLE_BYTES].decode(errors="ignore")
    return (cut.rsplit(" ", 1)[0] if " " in cut else cut).rstrip(" ,;:-") + "…"
