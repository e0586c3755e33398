# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The project's Python: build/venv with pinned tools, and the nixl package built into it; wheels for other Pythons.

Also partners for tests and measurements, never dependencies: the published wheel of the original, and a current UCX.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess

from steps import BUILD, ROOT, Failed, Outcome

VENV = BUILD / "venv"
PYTHON = VENV / "bin" / "python"
SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's: the one that has Debian's NumPy and PyTorch
WHEELS = BUILD / "wheels"
MINORS = (11, 12, 13)  # Python 3.x that a wheel is made for
REQUIREMENTS = ROOT / "tools" / "requirements.txt"
UCX_PACKAGE = "libucx-cu12==1.22.0"  # its core needs no CUDA
UCX = BUILD / UCX_PACKAGE.replace("==", "-")
PEER_VENV = BUILD / "peer-venv"
PEER_PYTHON = PEER_VENV / "bin" / "python"
# nixl is the package whose name most programs import; the code is in nixl-cu12.
PEER_PACKAGES = ("nixl-cu12==1.5.1", "nixl==1.5.1", "numpy")
PACKAGE_SOURCES = ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "cmake", "include", "src", "plugins",
                   "bindings/python")


def _digest(paths, extra=""):
    digest = hashlib.sha256(extra.encode())
    for path in paths:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _package_files():
    for name in PACKAGE_SOURCES:
        path = ROOT / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


def _stamp(name, digest, folder=VENV):
    path = folder / f".{name}"
    return path, path.is_file() and path.read_text() == digest


def is_installed():
    """True when some build of the package is in build/venv."""
    return (VENV / ".nixl").is_file()


def lacks_plugin(name):
    """Says that the package in build/venv has no such backend; None if it has."""
    found = next(VENV.glob(f"lib/*/site-packages/nixl/lib/plugins/libplugin_{name}.so"), None)
    return None if found else f"the package has no backend {name} (tools/extras says why)"


def ensure_venv(run):
    """Makes build/venv with the tools of tools/requirements.txt, unless it is there already."""
    version = subprocess.run([SYSTEM_PYTHON, "--version"], capture_output=True, text=True, check=False).stdout
    digest = _digest([REQUIREMENTS], version)
    stamp, current = _stamp("tools", digest)
    if current:
        return Outcome("nothing to do")
    run(SYSTEM_PYTHON, "-m", "venv", "--system-site-packages", "--clear", VENV)
    run(PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "-q", "-r", REQUIREMENTS)
    stamp.write_text(digest)
    return Outcome(f"{VENV.relative_to(ROOT)} from {REQUIREMENTS.relative_to(ROOT)}")


def install_package(run):
    """Builds the nixl package and installs it into build/venv, unless its sources are those of the last time."""
    client = BUILD / "aws-crt" / "made-of"  # of the backend OBJ, see tools/extras
    digest = _digest(_package_files(), client.read_text() if client.is_file() else "")
    stamp, current = _stamp("nixl", digest)
    if current:
        return Outcome("nothing to do")
    run(PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "-v", "--no-build-isolation", "--no-deps",
        "--force-reinstall", ROOT,
        env={"PATH": f"{VENV / 'bin'}:/usr/local/bin:/usr/bin:/bin"})
    stamp.write_text(digest)
    return Outcome("pip install . into build/venv")


def find_python(minor):
    """Python 3.`minor` from the PATH or, for what Debian does not have, from pyenv; None if there is none."""
    name = f"python3.{minor}"
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    for found in (shutil.which(name), *sorted(pyenv.glob(f"versions/3.{minor}.*/bin/{name}"))):
        # pyenv's own programs in the PATH exist for versions that are not selected, too.
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    return None


def install_wheel(run, python, minor):
    """Makes a virtual environment of `python` with the package in it, as a wheel, and returns its interpreter.

    Pythons from 3.12 on share the wheel that the first of them built.
    """
    venv = WHEELS / f"venv-3.{minor}"
    inside = venv / "bin" / "python"
    pip = (inside, "-m", "pip", "--disable-pip-version-check")
    run(python, "-m", "venv", "--clear", venv)
    run(*pip, "install", "-q", "-r", REQUIREMENTS, "numpy")
    pattern = "nixl-*-cp311-cp311-*.whl" if minor == 11 else "nixl-*-cp312-abi3-*.whl"
    if not list(WHEELS.glob(pattern)):
        run(*pip, "wheel", "-v", "--no-build-isolation", "--no-deps", "--wheel-dir", WHEELS, ROOT,
            env={"PATH": f"{venv / 'bin'}:/usr/local/bin:/usr/bin:/bin"})
    wheels = list(WHEELS.glob(pattern))
    if len(wheels) != 1:
        raise Failed(f"Python 3.{minor} should have built one wheel {pattern} in {WHEELS.relative_to(ROOT)}; there are "
                     f"{[path.name for path in WHEELS.glob('*.whl')]}")
    run(*pip, "install", "-q", "--no-deps", wheels[0])
    return inside


def ensure_peer(run):
    """Makes build/peer-venv with the published wheel of the original, unless it is there already."""
    stamp, current = _stamp("packages", " ".join(PEER_PACKAGES), PEER_VENV)
    if current:
        return
    run(SYSTEM_PYTHON, "-m", "venv", "--clear", PEER_VENV)
    # Without their dependencies: they name torch, which nothing here uses.
    run(PEER_PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", *PEER_PACKAGES)
    stamp.write_text(" ".join(PEER_PACKAGES))


def ensure_ucx(run):
    """Unpacks UCX_PACKAGE into UCX, unless it is there. Returns the path of its libucp, or None if it cannot be got."""
    library = UCX / "libucx" / "lib" / "libucp.so.0"
    if library.is_file():
        return library
    unpacked = UCX.with_name(UCX.name + ".part")
    shutil.rmtree(unpacked, ignore_errors=True)
    status = run(PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--target", unpacked,
                 UCX_PACKAGE, check=False)
    if status != 0:
        return None
    shutil.rmtree(UCX, ignore_errors=True)
    unpacked.rename(UCX)
    return library
