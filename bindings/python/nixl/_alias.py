# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Other names of this package: the same modules and classes, so that imports and pickles of all builds agree."""

import sys

import nixl

_SUBMODULES = ("_api", "_bindings", "_utils", "logging")


def become_nixl(package_name: str) -> None:
    """Make the package `package_name`, which is being imported, another name of nixl."""
    package = sys.modules[package_name]
    for name, value in vars(nixl).items():
        if not name.startswith("_"):
            setattr(package, name, value)
    package.__all__ = nixl.__all__
    package.__getattr__ = nixl.__getattr__
    for submodule in _SUBMODULES:
        module = sys.modules[f"nixl.{submodule}"]
        sys.modules[f"{package_name}.{submodule}"] = module
        setattr(package, submodule, module)
