#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Which files are there, and how large are they: many questions in one call, before anything is registered.

    query_mem_example.py [PATH...]

Without paths: three files of its own, one of which does not exist.

Exit status: 0 if the backend has answered, 1 otherwise, 2 for wrong arguments.
"""

import argparse
import pathlib
import tempfile
import time

import common
from nixl._api import nixl_agent, nixl_agent_config


def show(agent, backend, paths):
    # Only the name counts; address, length and device id of a question mean nothing.
    answers = agent.query_memory([(0, 0, 0, path) for path in paths], backend, "FILE")
    for path, answer in zip(paths, answers):
        if answer is None:
            print(f"{path}: not there")
            continue
        changed = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(answer["mtime"])))
        print(f"{path}: {int(answer['size']):,} bytes, mode {int(answer['mode']):o}, changed {changed}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", metavar="PATH")
    parser.add_argument("--backend", default="POSIX", help="backend that is asked (default POSIX)")
    options = parser.parse_args()
    agent = nixl_agent("curious", nixl_agent_config(backends=[]))
    agent.create_backend(options.backend)
    if options.paths:
        show(agent, options.backend, options.paths)
        return
    with tempfile.TemporaryDirectory(prefix="nixl-query-") as folder:
        for name, size in (("small", 1000), ("large", 123_456_789)):
            with open(pathlib.Path(folder, name), "wb") as file:
                file.truncate(size)
        show(agent, options.backend, [f"{folder}/{name}" for name in ("small", "large", "missing")])


if __name__ == "__main__":
    common.run(main)
