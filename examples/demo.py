"""A build from a prompt, watched in this terminal, on a server of its own. `make demo`, or:

    python examples/demo.py "a dashboard for my bakery"

Starts `foldstream dev` on a free port with its data in a temporary folder; ends with Ctrl-C (`--once`: with the build).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request

FOLDSTREAM = [sys.executable, "-m", "foldstream"]


def main(prompt: str, once: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="foldstream-demo-") as folder:
        command = [*FOLDSTREAM, "dev", "--port", "0", "--data-dir", folder, "--json"]
        # A session of its own: Ctrl-C comes to us first, and the server is stopped below.
        with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as server:
            assert server.stdout is not None
            try:
                return build(json.loads(server.stdout.readline())["url"], prompt, once)
            except KeyboardInterrupt:
                return 0
            finally:
                server.send_signal(signal.SIGINT)
                server.wait()


def build(url: str, prompt: str, once: bool) -> int:
    print(f'building "{prompt}"   page: {url}/ui/\n', flush=True)
    request = urllib.request.Request(f"{url}/build-preview", json.dumps({"prompt": prompt}).encode())
    with urllib.request.urlopen(request) as answer:
        started = json.load(answer)
    watching = subprocess.run(
        [*FOLDSTREAM, "watch", started["buildId"]], env={**os.environ, "FOLDSTREAM_URL": url}, check=False
    )
    print(f"\nyour app: {url}/preview/{started['buildId']}/", flush=True)
    if not once:
        print("Ctrl-C ends the demo", flush=True)
        signal.pause()
    return watching.returncode


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--once"]
    sys.exit(main(" ".join(words) or "a todo app with dark mode", "--once" in sys.argv))
