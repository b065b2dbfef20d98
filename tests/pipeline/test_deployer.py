"""Local previews: published whole, found again, never half."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from eventstore.errors import StepFailed
from eventstore.event import Data
from pipeline.deployers.local import CURRENT, LocalDeployer, previews, publish


async def silent(type_: str, data: Data) -> None:
    pass


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "index.html").write_text("one")
    (folder / "app.js").write_text("1")
    return folder


async def test_a_deployment_has_an_address_and_a_name(tmp_path: Path, files: Path) -> None:
    deployer = LocalDeployer(tmp_path / "data", "http://127.0.0.1:8000/")
    deployment = await deployer("27", files, silent)
    assert deployment.url == "http://127.0.0.1:8000/preview/27/"
    home = previews(tmp_path / "data", "27")
    assert os.readlink(home / CURRENT) == deployment.id
    assert (home / CURRENT / "index.html").read_text() == "one"


async def test_deploying_again_changes_nothing(tmp_path: Path, files: Path) -> None:
    deployer = LocalDeployer(tmp_path / "data", "http://x")
    first = await deployer("27", files, silent)
    assert await deployer("27", files, silent) == first
    assert sorted(os.listdir(previews(tmp_path / "data", "27"))) == sorted([first.id, CURRENT])


async def test_what_was_deployed_stays_as_it_was(tmp_path: Path, files: Path) -> None:
    deployer = LocalDeployer(tmp_path / "data", "http://x")
    first = await deployer("27", files, silent)
    (files / "index.html").write_text("two")
    second = await deployer("27", files, silent)
    home = previews(tmp_path / "data", "27")
    assert first.id != second.id
    assert (home / first.id / "index.html").read_text() == "one"
    assert (home / CURRENT / "index.html").read_text() == "two"


def test_names_count_as_well_as_contents(tmp_path: Path, files: Path) -> None:
    first = publish(files, tmp_path / "home")
    (files / "app.js").rename(files / "other.js")
    assert publish(files, tmp_path / "home") != first


LOOKER = """
import sys
while True:
    text = open(sys.argv[1]).read()
    if text not in ("one", "two"):
        sys.exit("half: " + text)
    if text == "two":
        print("seen", flush=True)
"""


def test_a_browser_always_gets_a_whole_preview(tmp_path: Path, files: Path) -> None:
    """Somebody reads all the time while two deployments take turns."""
    home, other = tmp_path / "home", tmp_path / "other"
    shutil.copytree(files, other)
    (other / "index.html").write_text("two")
    publish(files, home)
    path = str(home / CURRENT / "index.html")
    with subprocess.Popen([sys.executable, "-c", LOOKER, path], stdout=subprocess.PIPE) as looker:
        assert looker.stdout is not None
        publish(other, home)
        assert looker.stdout.readline()  # it looks
        for _ in range(1000):
            publish(files, home)
            publish(other, home)
        assert looker.poll() is None, "it saw something that was never published"
        looker.kill()


def test_two_workers_may_publish_the_same_at_once(tmp_path: Path, files: Path) -> None:
    for n in range(20):
        (files / "app.js").write_text(str(n))
        start, names = threading.Barrier(2), []

        def run(start: threading.Barrier = start, names: list[str] = names) -> None:
            start.wait()
            names.append(publish(files, tmp_path / "home"))

        both = [threading.Thread(target=run) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert len(names) == 2
        assert len(set(names)) == 1
    assert [name for name in os.listdir(tmp_path / "home") if name.startswith(".")] == []


async def test_nothing_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"no index\.html"):
        await LocalDeployer(tmp_path, "http://x")("27", tmp_path / "none", silent)
    assert not (tmp_path / "previews" / "27").exists()
