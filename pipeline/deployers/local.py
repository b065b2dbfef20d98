"""Previews on this machine: folders that never change once they are there, and one link to the newest.

    previews/{build}/{deployment}/...   the files; the name is a digest of them, so deploying again finds them there
    previews/{build}/current            -> {deployment}, set by one rename: browsers get the old files or the new ones

`pipeline.preview` serves them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
from pathlib import Path

from eventstore.errors import StepFailed
from pipeline.deployer import Deployment
from pipeline.planner import Report
from pipeline.workspace import folder

CURRENT = "current"


def previews(data_dir: Path, build: str) -> Path:
    """Where the deployments of ``build`` are."""
    return data_dir / "previews" / folder(build)


class LocalDeployer:
    """Publishes below ``data_dir``. public_url: where browsers reach this server, such as http://127.0.0.1:8000"""

    def __init__(self, data_dir: Path, public_url: str) -> None:
        self._data_dir = data_dir
        self._public_url = public_url.rstrip("/")

    async def __call__(self, build: str, files: Path, report: Report) -> Deployment:
        """A `pipeline.deployer.Deployer`."""
        deployment = await asyncio.to_thread(publish, files, previews(self._data_dir, build))
        return Deployment(url=f"{self._public_url}/preview/{build}/", id=deployment)


def publish(files: Path, home: Path) -> str:
    """Copy ``files`` below ``home``, point its ``current`` there, return the deployment's name. Raises StepFailed."""
    if not (files / "index.html").is_file():
        raise StepFailed("there is nothing to publish: the build left no index.html", code="DEPLOY")
    name = digest(files)
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".{secrets.token_hex(8)}"
    if not (home / name).is_dir():
        try:
            shutil.copytree(files, draft, symlinks=True)
            draft.rename(home / name)
        except FileExistsError:
            pass  # another worker published the same files at the same time
        except OSError:
            if not (home / name).is_dir():  # a folder that is not empty has other names on other systems
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    link = home / f".{secrets.token_hex(8)}"
    link.symlink_to(name)
    os.replace(link, home / CURRENT)
    return name


def digest(files: Path) -> str:
    """Sixteen hexadecimal digits that stand for exactly these files."""
    found = hashlib.sha256()
    for path in sorted(path for path in files.rglob("*") if path.is_file() and not path.is_symlink()):
        content = path.read_bytes()
        name = path.relative_to(files).as_posix().encode()
        found.update(b"%d %b %d %b" % (len(name), name, len(content), content))
    return found.hexdigest()[:16]
