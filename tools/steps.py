# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Runs named steps, one line each: what ./check and ./demo share.

A step is a function that runs commands through `Run`. Their output goes to build/logs/<step>.log; the terminal shows
one line per step, and the end of the log when the step fails.
"""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LOGS = BUILD / "logs"
STEP_LIMIT_S = 40 * 60

_ANIMATED = sys.stdout.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
_COLOURED = _ANIMATED and not os.environ.get("NO_COLOR")


class Failed(Exception):
    """A step did not succeed; the text says why and what to do."""


@dataclasses.dataclass
class Outcome:
    """What a step found. A step without tests leaves the counts at zero."""

    note: str = ""
    passed: int = 0
    failed: int = 0
    skipped: list = dataclasses.field(default_factory=list)  # one reason per skipped test
    failures: list = dataclasses.field(default_factory=list)  # what is known of failed tests: name and first lines


def colour(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if _COLOURED else text


def status_line(text):
    """Shows a line that the next one overwrites; nothing where there is no terminal."""
    if _ANIMATED:
        width = os.get_terminal_size().columns - 1
        print("\r\x1b[K" + text[:width], end="", flush=True)


def clear_status_line():
    status_line("")


def plain_environment():
    """The environment without what would send our commands to another Python."""
    unwanted = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in unwanted}


class Run:
    """The commands of one step and their log."""

    def __init__(self, name):
        self.name = name
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"{name}.log"
        self.log.write_bytes(b"")
        self.started = time.monotonic()

    def __call__(self, *command, env=None, check=True, limit_s=STEP_LIMIT_S):
        """Runs a command to its end and returns its exit status. Failed: it did not exit with 0 and `check` is set."""
        command = [str(word) for word in command]
        environment = plain_environment() | {"LC_ALL": "C.UTF-8"} | (env or {})
        with self.log.open("ab") as log:
            log.write(("$ " + " ".join(command) + "\n").encode())
            log.flush()
            try:
                process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=subprocess.STDOUT, start_new_session=True)
            except OSError as error:
                raise Failed(f"{command[0]} cannot be started: {error.strerror}; run tools/setup") from None
            status = self._wait(process, limit_s)
        if status is None:
            raise Failed(f"{command[0]} ran longer than {limit_s // 60} minutes and was ended")
        if check and status != 0:
            raise Failed(f"{os.path.basename(command[0])} exited with status {status}")
        return status

    def _wait(self, process, limit_s):
        end = time.monotonic() + limit_s
        try:
            while True:
                try:
                    return process.wait(timeout=0.2 if _ANIMATED else max(0.1, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    if time.monotonic() >= end:
                        return None
                    status_line(f"  {self.name:<13} {time.monotonic() - self.started:6.1f} s  {self._last_line()}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _last_line(self):
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 400))
            lines = re.split(rb"[\r\n]+", log.read().strip())
        return lines[-1].decode(errors="replace")

    def tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def print_step(name, seconds, verdict, note=""):
    words = {"ok": colour("32", "ok    "), "failed": colour("31", "FAILED"), "not run": colour("33", "not run")}
    print(f"  {name:<13} {seconds:6.1f} s  {words[verdict]}  {note}".rstrip(), flush=True)


def run_step(name, function, repeat, quiet=False):
    """Runs one step and prints its line; `quiet` prints only failures. Returns its Outcome, or None if it failed."""
    run = Run(name)
    try:
        outcome = function(run) or Outcome()
        reason = f"{outcome.failed} failed" if outcome.failed else ""
    except Failed as failure:
        outcome, reason = None, str(failure)
    clear_status_line()
    seconds = time.monotonic() - run.started
    if not reason:
        if not quiet:
            print_step(name, seconds, "ok", outcome.note)
        return outcome
    print_step(name, seconds, "failed", reason)
    for line in run.tail().splitlines():
        print("      " + line)
    print(f"    the whole log: {run.log.relative_to(ROOT)}")
    print(f"    this step again: {repeat}", flush=True)
    return outcome
