"""Workspace: the folder in which one build is made. No path leaves it, and it does not grow without bounds.

File names come from planners, which may be language models fed with strangers' prompts. So a path is first read
strictly as text (`parts`) and then walked component by component, each opened relative to the last and never through a
symbolic link: there is no moment at which a folder could be swapped for a link (`O_NOFOLLOW`, no check before the use).
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eventstore.errors import Invalid, NotFound, TooLarge

MAX_FILE_BYTES = 2 * 1024 * 1024
MAX_TOTAL_BYTES = 16 * 1024 * 1024
MAX_FILES = 500
MAX_DEPTH = 16


def folder(build: str) -> str:
    """The name of a build's folder. Ids may contain dots, so an id of dots must not become ``..``."""
    return f"={build}" if build.startswith(".") else build


def parts(path: str) -> tuple[str, ...]:
    """``css/style.css`` -> ("css", "style.css"). Raises Invalid for whatever is not a plain relative path."""
    pieces = tuple(path.split("/"))
    plain = (
        len(pieces) <= MAX_DEPTH
        and path.isprintable()  # no NUL, no newline, no lone surrogate
        and "\\" not in path
        and all(piece and not piece.startswith(".") and len(piece.encode()) <= 200 for piece in pieces)
    )
    if not plain:
        raise Invalid(
            f"{path[:80]!r} is not the path of a file in the workspace",
            fix="Use a relative path with forward slashes and without hidden files, such as css/style.css.",
            pointer="/path",
        )
    return pieces


@contextmanager
def _below(root: Path, pieces: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder ``root/pieces``, reached without following a link. Raises OSError."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for piece in pieces:
            if make:
                with suppress(FileExistsError):  # another task made it
                    os.mkdir(piece, 0o755, dir_fd=at)
            inner = os.open(piece, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        yield at
    finally:
        os.close(at)


def read_below(root: Path, path: str) -> bytes:
    """The regular file ``path`` below ``root``. Raises Invalid for a path that leads elsewhere, NotFound, TooLarge."""
    *above, name = parts(path)
    try:
        with _below(root, tuple(above)) as at:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise NotFound(f"{path} is not a file")
                with open(file, "rb", closefd=False) as opened:
                    content = opened.read(MAX_FILE_BYTES + 1)
            finally:
                os.close(file)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EISDIR, errno.ENXIO}:
            raise NotFound(f"there is no file {path}") from error
        raise
    if len(content) > MAX_FILE_BYTES:
        raise TooLarge(f"{path} is larger than {MAX_FILE_BYTES:,} bytes")
    return content


class Workspace:
    """One build's folder: ``root`` holds what the tasks write, ``dist`` what the builder made of it."""

    def __init__(self, base: Path, *, max_total_bytes: int = MAX_TOTAL_BYTES, max_files: int = MAX_FILES) -> None:
        self.base = base
        self.root = base / "source"
        self.dist = base / "dist"
        self._max_total_bytes = max_total_bytes
        self._max_files = max_files
        self.root.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, content: str | bytes) -> None:
        """Put a file there, whole or not at all. Raises Invalid, TooLarge."""
        *above, name = parts(path)
        data = content.encode() if isinstance(content, str) else content
        self._make_room(path, len(data))
        draft = f".{secrets.token_hex(8)}"
        try:
            with _below(self.root, tuple(above), make=True) as at:
                file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=at)
                try:
                    with open(file, "wb") as opened:
                        opened.write(data)
                    os.replace(draft, name, src_dir_fd=at, dst_dir_fd=at)
                except BaseException:
                    os.unlink(draft, dir_fd=at)
                    raise
        except (NotADirectoryError, IsADirectoryError) as error:
            raise Invalid(f"{path} goes through something that is not a folder", pointer="/path") from error
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise Invalid(f"{path} goes through a symbolic link", pointer="/path") from error

    def read(self, path: str) -> bytes:
        """The content of a file. Raises Invalid, NotFound."""
        return read_below(self.root, path)

    def files(self) -> list[str]:
        """Every file, as relative paths, in order. Links and drafts of writes that were cut off do not count."""
        found = [
            Path(above, name).relative_to(self.root).as_posix()
            for above, _, names in os.walk(self.root)
            for name in names
            if not name.startswith(".") and not Path(above, name).is_symlink()
        ]
        return sorted(found)

    def discard(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.base, ignore_errors=True)

    def _make_room(self, path: str, size: int) -> None:
        if size > MAX_FILE_BYTES:
            raise TooLarge(f"{path} has {size:,} bytes; the most for one file is {MAX_FILE_BYTES:,}")
        others = [name for name in self.files() if name != path]
        if len(others) >= self._max_files:
            raise TooLarge(f"the workspace is full: it holds {self._max_files} files")
        total = size + sum((self.root / name).lstat().st_size for name in others)
        if total > self._max_total_bytes:
            raise TooLarge(f"with {path} the workspace would hold {total:,} bytes of {self._max_total_bytes:,}")


def workspace(data_dir: Path, build: str) -> Workspace:
    """The workspace of ``build``. The folder must be shared by all workers that may work on the build."""
    return Workspace(data_dir / "workspaces" / folder(build))
