"""A workspace keeps what is written in it, and nothing gets out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventstore.errors import Invalid, NotFound, TooLarge
from pipeline.workspace import MAX_FILE_BYTES, Workspace, folder, parts, read_below, workspace

pytestmark = pytest.mark.pure


@pytest.fixture
def room(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def test_what_is_written_is_read_and_listed(room: Workspace) -> None:
    room.write("index.html", "<p>ä</p>")
    room.write("css/deep/style.css", b"a{}")
    room.write("index.html", "<p>new</p>")
    assert room.read("index.html") == b"<p>new</p>"
    assert room.files() == ["css/deep/style.css", "index.html"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/./x",
        "a//x",
        "a/",
        ".hidden",
        "a/.git/config",
        "a\\..\\x",
        "a\x00b",
        "a\nb",
        "\ud800",
        "x" * 201,
        "/".join("a" * 20),
        "..",
        ".",
        "~/../../x/../..",
    ],
)
def test_no_path_leaves_it(room: Workspace, path: str) -> None:
    with pytest.raises(Invalid):
        parts(path)
    with pytest.raises(Invalid):
        room.write(path, "x")
    with pytest.raises(Invalid):
        room.read(path)


def test_no_link_is_followed(room: Workspace, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (room.root / "folder").symlink_to(outside)
    (room.root / "file.txt").symlink_to(outside / "secret.txt")
    with pytest.raises(Invalid):
        room.write("folder/new.txt", "x")
    with pytest.raises(NotFound):
        room.read("folder/secret.txt")
    with pytest.raises(NotFound):
        room.read("file.txt")
    room.write("file.txt", "mine")  # takes the place of the link, and does not write through it
    assert (outside / "secret.txt").read_text() == "secret"
    assert room.read("file.txt") == b"mine"
    assert sorted(path.name for path in outside.iterdir()) == ["secret.txt"]
    assert room.files() == ["file.txt"]


def test_only_regular_files_are_read(room: Workspace) -> None:
    room.write("folder/file.txt", "x")
    os.mkfifo(room.root / "pipe")
    for path in ("folder", "pipe", "none", "folder/none", "folder/file.txt/more"):
        with pytest.raises(NotFound):
            read_below(room.root, path)
    with pytest.raises(Invalid):
        room.write("folder/file.txt/more", "x")
    with pytest.raises(Invalid):
        room.write("folder", "x")
    assert room.files() == ["folder/file.txt", "pipe"]
    assert [name for name in os.listdir(room.root) if name.startswith(".")] == []


def test_it_does_not_grow_without_bounds(tmp_path: Path) -> None:
    room = Workspace(tmp_path / "ws", max_total_bytes=100, max_files=3)
    with pytest.raises(TooLarge):
        room.write("big", b"x" * (MAX_FILE_BYTES + 1))
    room.write("a", b"x" * 60)
    with pytest.raises(TooLarge):
        room.write("b", b"x" * 41)
    room.write("a", b"y" * 100)  # its own old size does not count against it
    room.write("b", b"")
    room.write("c", b"")
    with pytest.raises(TooLarge):
        room.write("d", b"")
    assert room.files() == ["a", "b", "c"]


@pytest.mark.parametrize("build", ["..", ".", "...", "a..b", "27", "a:b", "A.b_c-d"])
def test_every_id_has_a_folder_of_its_own_inside(tmp_path: Path, build: str) -> None:
    assert "/" not in folder(build)
    assert folder(build) not in {".", ".."}
    room = workspace(tmp_path, build)
    assert room.root.resolve().is_relative_to((tmp_path / "workspaces").resolve())
    room.discard()
    assert list((tmp_path / "workspaces").iterdir()) == []
