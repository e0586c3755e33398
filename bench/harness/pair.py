# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The life of measured processes: started fresh, watched, and gone when `run` returns, whatever happened."""

import json
import os
import select
import socket
import subprocess
import tempfile
import time

from harness import rows, shared

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
START_LIMIT_S = 60.0
LOOK_AGAIN_S = 0.2  # whether a silent process still lives
TAIL_BYTES = 400  # of what a process printed, in the text of its failure


def versions(python):
    """What `python` finds: distribution, version, UCX."""
    with _Workers(python) as workers:
        workers.start("versions", {})
        return workers.next_line(START_LIMIT_S)


def run(python, variant, members, quick, scale):
    """Measures rows of one group; {name: figure}, where a figure that failed has "failure" instead of "value".

    After a failure the rows left are measured in new processes.
    """
    figures = {}
    left = list(members)
    while left:
        figures |= _run_until_failure(python, variant, left, quick, scale)
        left = [row for row in left if row.name not in figures]
    return figures


def _run_until_failure(python, variant, members, quick, scale):
    group = rows.group_named(members[0].group)
    names = [row.name for row in members]
    task = {"group": group.name, "variant": variant, "rows": names, "quick": quick, "scale": scale}
    figures = {}
    with _Workers(python) as workers:
        if group.target == "none":
            workers.start("alone", task)
        else:
            workers.start_pair(task)
        limit_s = START_LIMIT_S
        for row in members:
            figures[row.name] = workers.next_line(limit_s + row.limit_s)
            if "failure" in figures[row.name]:
                break
            limit_s = 0
    return figures


class _Workers:
    """One or two worker processes, their results, and what they print; leaving ends and removes all of it."""

    def __init__(self, python):
        self._python = python
        self._processes = []
        self._log = tempfile.TemporaryFile()
        self._results, self._results_end = os.pipe()
        self._pending = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._log.close()
        os.close(self._results)
        os.close(self._results_end)

    def start_pair(self, task):
        words = os.memfd_create("words")
        os.ftruncate(words, shared.SIZE)
        ends = socket.socketpair()
        for role, end in zip(("target", "initiator"), ends):
            self.start(role, task | {"channel": end.fileno(), "words": words})
        for end in ends:
            end.close()
        os.close(words)

    def start(self, role, task):
        task = task | {"results": self._results_end}
        # What somebody has tuned for this shell would tune one side only, or both without the result saying so.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("UCX_", "NIXL_"))}
        environment |= {name: os.environ[name] for name in ("NIXL_UCX_LIBRARY",) if name in os.environ}  # ours knows it
        if "group" in task and rows.group_named(task["group"]).over_tcp:
            environment |= {"UCX_TLS": "tcp", "NIXL_COMPANIONS": "n"}
        self._processes.append(
            subprocess.Popen(
                [self._python, WORKER, role, json.dumps(task)],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=environment,
                pass_fds=[task[name] for name in ("results", "channel", "words") if name in task],
            )
        )

    def next_line(self, limit_s):
        """The next result, or {"failure": text} when none comes."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._pending:
            ended = [process for process in self._processes if process.poll() is not None]
            if select.select([self._results], [], [], 0 if ended else LOOK_AGAIN_S)[0]:
                self._pending += os.read(self._results, 1 << 16)
            elif ended:
                return {"failure": f"a worker ended with {ended[0].returncode}: {self._tail()}"}
            elif time.monotonic() > deadline:
                return {"failure": f"hung: silent for {limit_s:.0f} s, killed: {self._tail()}"}
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    def _tail(self):
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - TAIL_BYTES))
        return self._log.read().decode(errors="replace").strip() or "it printed nothing"
