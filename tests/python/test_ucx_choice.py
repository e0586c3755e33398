# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Which UCX an installed package takes: of the system, or of PyPI's package beside it, whichever is newer.

The package beside it is a double: the system's library with another version in it, in a copy of the installed package.
"""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import nixl

PROGRAM = """
import numpy as np, nixl
agent = nixl.nixl_agent("a", nixl.nixl_agent_config(backends=["UCX"]))
data = np.zeros(64, np.uint8)
agent.register_memory([(data.ctypes.data, 64, 0, "")], "DRAM")
descs = agent.get_xfer_descs([(data.ctypes.data, 64, 0)], "DRAM")
print(agent.get_xfer_report(agent.initialize_xfer("WRITE", descs, descs, "a")).path)
"""


def _system_library():
    table = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"libucp\.so\.0 .*=> (\S+)", table)
    return pathlib.Path(found[1]) if found else None


@pytest.fixture
def environment(tmp_path, plugins):
    """A folder of Python packages with a copy of this one; (the folder, the system's library, its version)."""
    library = _system_library()
    if "UCX" not in plugins or library is None:
        pytest.skip("there is no plugin UCX, or no UCX of the system")
    shutil.copytree(pathlib.Path(nixl.__file__).parent, tmp_path / "nixl")
    version = re.search(rb"1\.\d+\.\d+(?=\0)", library.read_bytes())[0]
    return tmp_path, library, version


def _install(folder, library, version, other):
    """PyPI's package, in the version `other`."""
    assert len(version) == len(other)
    (folder / "libucx" / "lib").mkdir(parents=True)
    contents = library.read_bytes().replace(version + b"\0", other + b"\0")
    (folder / "libucx" / "lib" / "libucp.so.0").write_bytes(contents)


def _path_in(folder, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UCX_", "NIXL_"))}
    kept |= {"PYTHONPATH": str(folder), "NIXL_CONFIG_FILE": os.devnull, "NIXL_COMPANIONS": "n"} | environment
    said = subprocess.run([sys.executable, "-c", PROGRAM], env=kept, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    return said


def _has_rdma_devices():
    folder = pathlib.Path("/sys/class/infiniband")
    return folder.is_dir() and any(folder.iterdir())


def test_newer_of_a_python_package_is_taken_and_the_report_says_why(environment):
    folder, library, version = environment
    newer = b"1.99" + b".9999999"[: len(version) - 4]
    _install(folder, library, version, newer)
    said = _path_in(folder, NIXL_LOG_LEVEL="INFO")
    if _has_rdma_devices():
        expected = "(the system's, because this host has RDMA devices)"
    else:
        assert f" {folder}/libucx/lib/libucp.so.0 " in said.stdout
        expected = f"(the Python package's, newer than the system's {version.decode()})"
    assert expected in said.stdout
    assert said.stderr.count(expected.strip("()")) == 1
    assert " named by NIXL_UCX_LIBRARY" in _path_in(folder, NIXL_UCX_LIBRARY=str(library)).stdout.replace("(", " ")


def test_older_of_a_python_package_is_not_taken(environment):
    folder, library, version = environment
    older = b"1.0." + b"000000"[: len(version) - 4]
    _install(folder, library, version, older)
    path = _path_in(folder).stdout
    assert str(folder) not in path
    if not _has_rdma_devices():
        assert f"(the system's, not older than the Python package's {older.decode()})" in path


def test_damaged_one_of_a_python_package_leaves_the_systems(environment):
    folder, _, version = environment
    (folder / "libucx" / "lib").mkdir(parents=True)
    (folder / "libucx" / "lib" / "libucp.so.0").write_bytes(b"no library 1.999.9\0")
    path = _path_in(folder).stdout
    assert path.startswith("ucx " + version.decode()) and str(folder) not in path


def test_without_a_python_package_it_is_the_systems(environment):
    folder, _, version = environment
    path = _path_in(folder).stdout
    assert path.startswith("ucx " + version.decode()) and "(the system's)" in path


def test_extra_of_the_package_brings_ucx():
    requirements = importlib.metadata.requires("nixl")
    assert any(re.fullmatch(r"libucx-cu12 *;.*extra *== *.ucx.", requirement) for requirement in requirements)
