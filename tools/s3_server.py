#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""A real S3 server on loopback, versitygw (tools/extras), over a temporary folder: `s3_server.py COMMAND...`.

Runs the command with the server, its keys and an empty bucket in the environment variables of AWS's programs, and exits
with its status.
"""

import os
import pathlib
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "versitygw" / "versitygw"
PATIENCE_S = 60.0
BUCKET = "nixl-bucket"


def why_not():
    """Why there can be no server here; None if there can."""
    return None if PROGRAM.is_file() else "there is no S3 server (tools/extras makes build/versitygw)"


class S3Server:
    """Runs from `with S3Server() as server` to the end of the block; also ends with this process."""

    def __init__(self, folder=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nixl-s3-", dir=folder))
        self.access_key, self.secret_key = secrets.token_hex(10), secrets.token_hex(20)
        objects = self.folder / "objects"
        self.bucket = objects / BUCKET  # a bucket is a folder, an object a file
        self.bucket.mkdir(parents=True)
        keys = {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", PROGRAM, "--port", "127.0.0.1:0", "--keep-alive", "--quiet",
                 "posix", objects], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=keys)
        self.port = self._wait_for_port()

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
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key,
                "AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1", "AWS_DEFAULT_BUCKET": BUCKET}

    def _wait_for_port(self):
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < end:
            port = listening_port(self.process.pid)
            if port:
                return port
            time.sleep(0.005)
        said = (self.folder / "log").read_text(errors="replace").strip()
        self.close()
        raise RuntimeError(f"{PROGRAM.relative_to(ROOT)} does not listen; it said: {said}")


def listening_port(pid):
    """The port that the system gave to a process which listens; None: to none (yet)."""
    process = pathlib.Path("/proc", str(pid))
    try:
        sockets = {re.sub(r"socket:\[(\d+)\]", r"\1", str(fd.readlink())) for fd in (process / "fd").iterdir()}
        table = (process / "net" / "tcp").read_text().splitlines()[1:]
    except OSError:
        return None
    for line in table:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in sockets:
            return int(fields[1].split(":")[1], 16)
    return None


def main():
    if not sys.argv[1:]:
        sys.exit(__doc__)
    if why_not():
        sys.exit(f"s3_server: {why_not()}")
    with S3Server() as server:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        status = subprocess.call(sys.argv[1:], env=environment | server.environment)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
