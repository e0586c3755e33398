# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""A measured process: `worker.py ROLE JSON`, the JSON as pair.py writes it.

The initiator measures and writes one JSON line per row to RESULTS_FD; the target does what the initiator asks for over
the side channel. The import comes first so that it is measured in an interpreter that has loaded nothing else.
"""

import time

STARTED = time.perf_counter_ns()
from nixl_cu12 import _api as nixl  # noqa: E402

IMPORT_NS = time.perf_counter_ns() - STARTED

import ctypes  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from multiprocessing.connection import Connection  # noqa: E402

PR_SET_PDEATHSIG = 1
TUNED = {"ucx_error_handling_mode": "none"}


def new_agent(name, variant, progress_thread):
    if variant == "tuned":
        agent = nixl.nixl_agent(name, nixl.nixl_agent_config(enable_prog_thread=progress_thread, backends=[]))
        agent.create_backend("UCX", TUNED)
        return agent
    return nixl.nixl_agent(name, nixl.nixl_agent_config(enable_prog_thread=progress_thread))


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)


def ucx_version():
    """Version of the UCX this process has loaded, asked from the library itself."""
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "/libucp" in line}
    for path in sorted(paths):
        function = ctypes.CDLL(path).ucp_get_version_string
        function.restype = ctypes.c_char_p
        return function().decode()
    return None


def versions():
    import importlib.metadata as metadata

    agent = nixl.nixl_agent("version", nixl.nixl_agent_config())
    agent.get_agent_metadata()
    names = metadata.packages_distributions().get("nixl_cu12", [])
    return {
        "distribution": names[0] if names else None,
        "version": metadata.version(names[0]) if names else None,
        "ucx": ucx_version(),
        "python": sys.version.split()[0],
        "numpy": metadata.version("numpy"),
    }


def main():
    die_with_parent()
    role, task = sys.argv[1], json.loads(sys.argv[2])
    results = open(task["results"], "w", buffering=1)

    def say(**fields):
        results.write(json.dumps(fields) + "\n")

    if role == "versions":
        say(**versions())
    elif role == "alone":
        from harness import measure

        measure.run_start(say, task["rows"], IMPORT_NS)
    else:
        from harness import measure, rows, shared, target

        group = rows.group_named(task["group"])
        if group.over_tcp:  # the kernel likes to put both ends of a connection on one core
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[0] if role == "initiator" else cores[-1]})
        # Either polls its agent, or sleeps and leaves the work to the progress thread: never both, so that one thread
        # of each process spins at most.
        agent = new_agent(role, task["variant"], progress_thread=role == "target" and group.target == "sleeps")
        channel = Connection(task["channel"])
        words = shared.attach(task["words"])
        if role == "target":
            target.Target(agent, channel, words).serve()
        else:
            all_rows = measure.Rows(agent, channel, words, group, task["scale"], task["quick"])
            measure.run_rows(say, task["rows"], all_rows)
    # Not sys.exit(): the published wheel crashes at times when the interpreter takes its agents down.
    results.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    main()
