# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""C++ programs of ours on the libnixl of a Python package."""

import glob
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LINKS = os.path.join(ROOT, "build", "bench-libraries")


def environment(label, python):
    """In which a program runs on the libnixl and the plugins of the package that `python` finds.

    It asks for libnixl.so.1, whatever the library's file is called; `label` names the link to it.
    """
    library = _library_of(python)
    folder = os.path.join(LINKS, label)
    os.makedirs(folder, exist_ok=True)
    link = os.path.join(folder, "libnixl.so.1")
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(library, link)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UCX_", "NIXL_"))}
    home = os.path.dirname(library)
    bundled = os.path.join(os.path.dirname(home), "nixl_cu12.libs")  # what the wheel's libraries need
    return kept | {
        "LD_LIBRARY_PATH": f"{folder}:{home}:{bundled}",
        "NIXL_PLUGIN_DIR": os.path.join(home, "plugins"),
        "NIXL_LOG_LEVEL": "FATAL",
        "NIXL_CONFIG_FILE": "/dev/null",
        **{name: os.environ[name] for name in ("NIXL_UCX_LIBRARY",) if name in os.environ},  # ours knows it
    }


def _library_of(python):
    script = "import nixl_cu12, os, sysconfig; print(sysconfig.get_path('platlib'))"
    folder = subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    for pattern in ("nixl/lib/libnixl.so.1", ".nixl_cu12.mesonpy.libs/libnixl.so"):
        found = glob.glob(os.path.join(folder, pattern))
        if found:
            return found[0]
    sys.exit(f"{python} has no libnixl in {folder}")
