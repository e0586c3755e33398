# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The published wheel of the original, with which ours is compared."""

import os
import shlex
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def peer_python():
    """The interpreter of the peer's own virtual environment, made on first use."""
    sys.path.insert(0, os.path.join(ROOT, "tools"))
    import python_env

    def run(*command):
        print(f"$ {shlex.join(map(str, command))}", file=sys.stderr)
        subprocess.run(command, check=True)

    python_env.ensure_peer(run)
    return str(python_env.PEER_PYTHON)
