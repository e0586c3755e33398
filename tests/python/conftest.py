# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures. Tests that move data run once per backend; a backend without a plugin is skipped with that reason."""

import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tools"))

# A machine's configuration must not change what is tested. Read when the first agent is made, so set before.
os.environ["NIXL_CONFIG_FILE"] = os.devnull

import nixl  # noqa: E402
import s3_server  # noqa: E402
import support  # noqa: E402


def _plugins():
    return nixl.nixl_agent("plugins", nixl.nixl_agent_config(backends=[])).get_plugin_list()


@pytest.fixture(scope="session")
def plugins():
    return _plugins()


@pytest.fixture(params=["LOOPBACK", "UCX"])
def backend(request, plugins):
    """Name of a backend that moves memory between agents of one process."""
    if request.param not in plugins:
        pytest.skip(f"there is no plugin {request.param}")
    return request.param


@pytest.fixture
def pair(backend):
    return support.make_pair(backend)


@pytest.fixture
def agent():
    """An agent with the backend that is always there."""
    return nixl.nixl_agent("alone", support.config("LOOPBACK"))


@pytest.fixture
def bucket(plugins, monkeypatch):
    """The folder of a bucket, of a server that the environment names."""
    if "OBJ" not in plugins:
        pytest.skip("there is no plugin OBJ")
    if s3_server.why_not():
        pytest.skip(s3_server.why_not())
    with s3_server.S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server.bucket


@pytest.fixture
def log(caplog):
    """The log records of the logger "nixl", which do not reach the root logger."""
    import logging

    logger = logging.getLogger("nixl")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
