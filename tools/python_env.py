# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The project's Python: build/venv with pinned tools, and the nixl package built into it."""

import hashlib
import subprocess

from steps import BUILD, ROOT, Outcome

VENV = BUILD / "venv"
PYTHON = VENV / "bin" / "python"
SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's: the one that has Debian's NumPy and PyTorch
REQUIREMENTS = ROOT / "tools" / "requirements.txt"
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


def _stamp(name, digest):
    path = VENV / f".{name}"
    return path, path.is_file() and path.read_text() == digest


def is_installed():
    """True when some build of the package is in build/venv."""
    return (VENV / ".nixl").is_file()


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
    digest = _digest(_package_files())
    stamp, current = _stamp("nixl", digest)
    if current:
        return Outcome("nothing to do")
    run(PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "-v", "--no-build-isolation", "--no-deps",
        "--force-reinstall", ROOT,
        env={"PATH": f"{VENV / 'bin'}:/usr/local/bin:/usr/bin:/bin"})
    stamp.write_text(digest)
    return Outcome("pip install . into build/venv")
