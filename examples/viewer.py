"""Follow a build over SSE and come back after every cut, with nothing but the standard library.

    python examples/viewer.py my-import

The whole of it: remember the last id, and send it as Last-Event-ID when you come back. The server does the rest.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

URL = os.environ.get("FOLDSTREAM_URL", "http://127.0.0.1:8000")


def follow(build: str) -> Iterator[dict[str, object]]:
    """Every event of the build, in order, once, until it has ended."""
    cursor = 0
    while True:
        try:
            request = urllib.request.Request(f"{URL}/events/{build}", headers={"Last-Event-ID": str(cursor)})
            with urllib.request.urlopen(request, timeout=30) as stream:
                if stream.status == 204:
                    return
                name = ""
                for line in map(bytes.strip, stream):
                    field, _, value = line.partition(b": ")
                    if not line:
                        name = ""
                    elif field == b"event":
                        name = value.decode()
                        if name == "reset":  # our cursor is not of this log: everything follows, from the beginning
                            cursor = 0
                    elif field == b"data" and name == "closed":
                        return
                    elif field == b"data" and not name:
                        event = json.loads(value)
                        cursor = event["id"]
                        yield event
        except (urllib.error.URLError, OSError) as error:
            print(f"connection lost ({error}); again from {cursor}", file=sys.stderr)
            time.sleep(1)


if __name__ == "__main__":
    for event in follow(sys.argv[1]):
        print(event["id"], event["type"], event["data"].get("message", ""), flush=True)  # type: ignore[attr-defined]
