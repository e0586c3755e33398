# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Every package name that programs import leads to the very same modules and classes."""

import importlib
import pickle
import subprocess
import sys

import pytest

import nixl
import nixl._bindings

ALIASES = ["nixl_cu12", "nixl_cu13", "nixl_rocm", "rixl"]
SUBMODULES = ["_api", "_bindings", "_utils", "logging"]


@pytest.mark.parametrize("package", ALIASES)
@pytest.mark.parametrize("submodule", SUBMODULES)
def test_submodule_is_the_same_object(package, submodule):
    module = importlib.import_module(f"{package}.{submodule}")
    assert module is importlib.import_module(f"nixl.{submodule}")
    assert getattr(importlib.import_module(package), submodule) is module


@pytest.mark.parametrize("package", ALIASES)
@pytest.mark.parametrize("first", ["{}", "{}._api", "{}._bindings", "{}._utils", "{}.logging"])
def test_alias_may_be_the_first_import(package, first):
    code = f"import {first.format(package)}; import nixl._bindings as b, {package}._bindings as c; assert b is c"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ALIASES)
def test_alias_exports_what_nixl_does(package):
    alias = importlib.import_module(package)
    assert alias.__name__ == package and alias.__all__ == nixl.__all__
    for name in (*nixl.__all__, "nixlBind", "DRAM_SEG", "get_logger", "np"):
        assert getattr(alias, name) is getattr(nixl, name), name
    code = f"from {package} import *; assert nixl_agent.__module__ == 'nixl._api'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_at_the_top():
    from nixl import nixl_agent, nixl_agent_config, nixl_xfer_handle

    assert nixl_agent is nixl._api.nixl_agent
    assert nixl_agent_config is nixl._api.nixl_agent_config
    assert nixl_xfer_handle is nixl._api.nixl_xfer_handle


def test_classes_name_nixl_bindings_as_their_module():
    for name, value in vars(nixl._bindings).items():
        if isinstance(value, type):
            assert value.__module__ == "nixl._bindings", name


def test_pickles_of_our_classes_load_in_a_process_that_knows_an_alias_only():
    descs = nixl.nixlXferDList(nixl.DRAM_SEG, [(1, 2, 3)])
    code = "import sys, pickle, nixl_cu13; print(list(pickle.loads(bytes.fromhex(sys.argv[1]))))"
    output = subprocess.check_output([sys.executable, "-c", code, pickle.dumps(descs).hex()], text=True)
    assert output.strip() == "[(1, 2, 3)]"
