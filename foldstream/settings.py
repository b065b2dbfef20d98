"""Settings: every environment variable that foldstream knows, read here and nowhere else.

`read(environ)` checks all of them and reports all mistakes at once, each with its name; secrets never appear in a repr.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from eventstore.errors import CannotStart

T = TypeVar("T")

NONE: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server and a worker run with. Times in seconds, sizes in bytes.

    database_url, redis_url  empty: the embedded servers of ``data_dir``.
    public_url               how browsers reach this server; previews and links begin with it.
    event_retention_days     0: events stay for ever.
    origins                  web origins, besides the server's own, whose pages may connect.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    data_dir: Path = Path(".foldstream")
    database_url: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)
    public_url: str = "http://127.0.0.1:8000"
    auth: bool = False
    jwt_secrets: tuple[str, ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    max_data_bytes: int = 64 * 1024
    body_bytes: int = 1_000_000
    heartbeat: float = 15.0
    build_timeout: float = 300.0
    deploy_timeout: float = 120.0
    worker_concurrency: int = 4
    drop_rings: float = 0.0
    event_retention_days: int = 0
    partition_days: int = 30
    partition_events: int = 10_000_000

    @property
    def is_loopback(self) -> bool:
        """Only programs of this machine can connect."""
        return self.host in LOOPBACK


LOOPBACK = ("127.0.0.1", "::1", "localhost")

VARIABLES: Mapping[str, str] = {
    "HOST": "address to listen on (127.0.0.1)",
    "PORT": "port to listen on (8000)",
    "FOLDSTREAM_DATA_DIR": "folder of the embedded servers, previews and workspaces (.foldstream)",
    "DATABASE_URL": "Postgres; empty: the embedded one",
    "REDIS_URL": "Redis or Valkey; empty: the embedded one",
    "REDIS_PUBSUB_URL": "another name of REDIS_URL",
    "PUBLIC_URL": "how browsers reach this server (http://127.0.0.1:PORT)",
    "AUTH": "on or off (off for `foldstream dev`, on for `foldstream serve`)",
    "JWT_SECRET": "signs tokens; 32 bytes or more; two with a comma between them during a rotation, the new one first",
    "MAIN_APP_URL": "the origin of the application whose pages connect",
    "WEBSOCKET_CORS_ORIGIN": "more such origins, with commas between them",
    "ALLOWED_HOSTS": "host names to answer to, with commas between them (empty: any; `dev`: loopback names)",
    "MAX_EVENT_BYTES": "largest data of an event (65536)",
    "MAX_BODY_BYTES": "largest request body (1000000)",
    "HEARTBEAT_SECONDS": "silence before an SSE heartbeat (15)",
    "BUILD_TIMEOUT_MS": "longest build step (300000)",
    "DEPLOY_TIMEOUT_MS": "longest deployment (120000)",
    "WORKER_CONCURRENCY": "jobs a worker does at once (4)",
    "EVENT_RETENTION_DAYS": "days of silence after which `foldstream gc` seals a run and lets its events go (off)",
    "PARTITION_DAYS": "age at which `foldstream gc` begins a new partition of the events (30)",
    "PARTITION_EVENTS": "number of events at which it does (10000000)",
    "FAULT_DROP_RINGS": "share of bus messages to throw away, 0 to 1 (0; for tests of healing)",
    "FOLDSTREAM_URL": "the server that the commands talk to (http://127.0.0.1:8000)",
    "FOLDSTREAM_TOKEN": "the token they send, where the server asks for one",
    "FOLDSTREAM_PROGRESS": "how `foldstream watch` shows a run: auto, tty, plain or json (auto)",
    "NO_COLOR": "anything: no colours",
}
"""Name -> meaning (default). The documentation's table is printed from this."""


class _Reader:
    """Reads one variable after the other and collects what is wrong."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.wrong: list[str] = []

    def get(self, name: str, default: T, convert: Callable[[str], T]) -> T:
        text = self._environ.get(name, "").strip()
        if not text:
            return default
        try:
            return convert(text)
        except ValueError as error:
            self.wrong.append(f"{name}: {error}")
            return default


def read(environ: Mapping[str, str], *, auth: bool) -> Settings:
    """The settings of ``environ``. ``auth``: whether tokens are needed where AUTH says nothing. Raises CannotStart."""
    reader = _Reader(environ)
    port = reader.get("PORT", 8000, _whole(0, 65535))
    redis_url = reader.get("REDIS_URL", "", _url("redis", "rediss", "unix"))
    pubsub_url = reader.get("REDIS_PUBSUB_URL", "", _url("redis", "rediss", "unix"))
    if redis_url and pubsub_url and redis_url != pubsub_url:
        reader.wrong.append("REDIS_URL and REDIS_PUBSUB_URL: both are set and differ; keep one")
    settings = Settings(
        host=environ.get("HOST", "").strip() or "127.0.0.1",
        port=port,
        data_dir=Path(environ.get("FOLDSTREAM_DATA_DIR", "").strip() or ".foldstream"),
        database_url=reader.get("DATABASE_URL", "", _url("postgres", "postgresql")),
        redis_url=redis_url or pubsub_url,
        public_url=reader.get("PUBLIC_URL", f"http://127.0.0.1:{port}", _url("http", "https")).rstrip("/"),
        auth=reader.get("AUTH", auth, _on_or_off),
        jwt_secrets=reader.get("JWT_SECRET", NONE, _words),
        origins=(
            *reader.get("MAIN_APP_URL", NONE, _origins),
            *reader.get("WEBSOCKET_CORS_ORIGIN", NONE, _origins),
        ),
        hosts=reader.get("ALLOWED_HOSTS", NONE, _words),
        max_data_bytes=reader.get("MAX_EVENT_BYTES", 64 * 1024, _whole(1, 16_000_000)),
        body_bytes=reader.get("MAX_BODY_BYTES", 1_000_000, _whole(1, 1_000_000_000)),
        heartbeat=reader.get("HEARTBEAT_SECONDS", 15.0, _number(0.1, 3600)),
        build_timeout=reader.get("BUILD_TIMEOUT_MS", 300.0, _millis),
        deploy_timeout=reader.get("DEPLOY_TIMEOUT_MS", 120.0, _millis),
        worker_concurrency=reader.get("WORKER_CONCURRENCY", 4, _whole(1, 1000)),
        drop_rings=reader.get("FAULT_DROP_RINGS", 0.0, _number(0, 1)),
        event_retention_days=reader.get("EVENT_RETENTION_DAYS", 0, _whole(0, 36_500)),
        partition_days=reader.get("PARTITION_DAYS", 30, _whole(1, 36_500)),
        partition_events=reader.get("PARTITION_EVENTS", 10_000_000, _whole(1, 10**12)),
    )
    if reader.wrong:
        raise CannotStart("; ".join(reader.wrong), fix="Correct the environment variables named above.")
    return settings


DEFAULT_URL = "http://127.0.0.1:8000"
PROGRESS = ("auto", "tty", "plain", "json")


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a command that talks to a server knows of it. url: without a slash at its end. progress: see VARIABLES."""

    url: str = DEFAULT_URL
    token: str = field(default="", repr=False)
    progress: str = "auto"
    color: bool = True


def read_client(environ: Mapping[str, str]) -> ClientSettings:
    """The settings of a command that talks to a server. Raises CannotStart."""
    reader = _Reader(environ)
    settings = ClientSettings(
        url=reader.get("FOLDSTREAM_URL", DEFAULT_URL, _url("http", "https")).rstrip("/"),
        token=environ.get("FOLDSTREAM_TOKEN", "").strip(),
        progress=reader.get("FOLDSTREAM_PROGRESS", "auto", _one_of(PROGRESS)),
        color=not environ.get("NO_COLOR"),
    )
    if reader.wrong:
        raise CannotStart("; ".join(reader.wrong), fix="Correct the environment variables named above.")
    return settings


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return convert


def _whole(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return convert


def _number(low: float, high: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return convert


def _millis(text: str) -> float:
    return _whole(1, 86_400_000)(text) / 1000


def _on_or_off(text: str) -> bool:
    if text.lower() not in ("on", "off", "true", "false", "1", "0"):
        raise ValueError(f"{text!r} is neither on nor off")
    return text.lower() in ("on", "true", "1")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _url(*schemes: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if urlsplit(text).scheme not in schemes:
            # The value may hold a password: it is not repeated.
            raise ValueError(f"is not an address that begins with {' or '.join(f'{s}://' for s in schemes)}")
        return text

    return convert


def _origins(text: str) -> tuple[str, ...]:
    origins = []
    for word in _words(text):
        parts = urlsplit(word)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{word!r} is not a web origin such as https://app.example.com")
        origins.append(f"{parts.scheme}://{parts.netloc}")
    return tuple(origins)
