#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""libnixl needs the C and C++ libraries and nothing else.

dependencies.py LIBRARY
"""
import re
import subprocess
import sys

ALLOWED = re.compile(r"(libc|libm|libgcc_s|libstdc\+\+|libpthread|libdl)\.so\.\d+|ld-linux[^/]*|linux-vdso\.so\.1")


def main() -> int:
    output = subprocess.run(["ldd", sys.argv[1]], check=True, capture_output=True, text=True).stdout
    names = [line.split()[0].rsplit("/", 1)[-1] for line in output.splitlines() if line.strip()]
    foreign = [name for name in names if not ALLOWED.fullmatch(name)]
    print(f"{len(names)} libraries: {' '.join(names)}")
    for name in foreign:
        print(f"libnixl must not need {name}", file=sys.stderr)
    return int(bool(foreign) or "libc.so.6" not in names)


if __name__ == "__main__":
    sys.exit(main())
