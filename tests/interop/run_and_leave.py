# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""`run_and_leave.py PROGRAM ARGUMENT...` runs a Python program without taking the interpreter down at the end.

With the published wheel that crashes at times, when its objects are destroyed last.
"""

import os
import pathlib
import runpy
import sys

sys.argv = sys.argv[1:]
sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
status = 0
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    status = end.code or 0
sys.stdout.flush()
os._exit(status)
