#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""A real etcd on loopback (tools/extras), over a temporary folder: `etcd_server.py COMMAND...`.

Runs the command with the server in NIXL_ETCD_ENDPOINTS, and exits with its status.
"""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = (ROOT / "build" / "etcd" / "etcd", pathlib.Path("/usr/bin/etcd"))
PATIENCE_S = 60.0
TRIES = 5  # another program may take a port that was free a moment before


def why_not():
    """Why there can be no server here; None if there can."""
    return None if any(path.is_file() for path in PROGRAMS) else "there is no etcd (tools/extras makes build/etcd)"


class EtcdServer:
    """Runs from `with EtcdServer() as server` to the end of the block; also ends with this process."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nixl-etcd-"))
        for _ in range(TRIES):
            if self._starts():
                return
        said = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        self.close()
        raise RuntimeError(f"etcd does not start; it said: {said[-1] if said else 'nothing'}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self):
        return {"NIXL_ETCD_ENDPOINTS": self.endpoint}

    def watchers(self):
        """How many watches etcd has now."""
        with urllib.request.urlopen(f"{self.endpoint}/metrics", timeout=PATIENCE_S) as answer:
            return int(float(re.search(rb"^etcd_debugging_mvcc_watcher_total (\S+)", answer.read(), re.MULTILINE)[1]))

    def _starts(self):
        with socket.create_server(("127.0.0.1", 0)) as client, socket.create_server(("127.0.0.1", 0)) as peer:
            self.port, peer_port = client.getsockname()[1], peer.getsockname()[1]
        peer_url = f"http://127.0.0.1:{peer_port}"
        program = next(path for path in PROGRAMS if path.is_file())
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, "--data-dir", self.folder / "data",
                 "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
                 "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url,
                 "--initial-cluster", f"default={peer_url}", "--unsafe-no-fsync", "--logger=zap",
                 "--log-outputs=stderr", "--heartbeat-interval=20", "--election-timeout=200"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return True
            except OSError:
                time.sleep(0.005)
        return False


def main():
    if not sys.argv[1:]:
        sys.exit(__doc__)
    if why_not():
        sys.exit(f"etcd_server: {why_not()}")
    with EtcdServer() as server:
        status = subprocess.call(sys.argv[1:], env=os.environ | server.environment)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
