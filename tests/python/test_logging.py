# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The Python loggers: names, format, target and the environment variables that set them."""

import logging
import os
import re
import subprocess
import sys

import pytest

import nixl.logging as nixl_logging

LINE = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d NIXL %-7s <string>:1 %s$"


def output(code, **environment):
    """Standard output and standard error of a fresh interpreter."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NIXL_")}
    result = subprocess.run(
        [sys.executable, "-c", "from nixl.logging import *; " + code],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    return result.stdout.splitlines()


@pytest.mark.parametrize("name, full", [("x", "nixl.x"), ("_api", "nixl.api"), ("__main__", "nixl.main__")])
def test_logger_names_lose_leading_underscores(name, full):
    assert nixl_logging.get_logger(name).name == full


def test_logger_is_set_up_once():
    logger = logging.getLogger("nixl")
    handlers = list(logger.handlers)
    nixl_logging.setup_logging()
    nixl_logging.get_logger("again")
    assert logger.handlers == handlers
    assert logger.propagate is False
    assert nixl_logging.LOGGING_CONFIG["loggers"]["nixl"]["level"] == "INFO"


def test_lines_go_to_standard_output_in_the_known_form():
    lines = output("l = get_logger('t'); l.info('hello'); l.debug('hidden'); l.warning('careful')")
    assert len(lines) == 2
    assert re.match(LINE % ("INFO", "hello"), lines[0])
    assert re.match(LINE % ("WARNING", "careful"), lines[1])


@pytest.mark.parametrize(
    "value, level",
    [("TRACE", 10), ("DEBUG", 10), ("INFO", 20), ("WARN", 30), ("ERROR", 40), ("FATAL", 50), ("debug", 10)],
)
def test_environment_sets_the_level(value, level):
    lines = output("import logging; print(get_logger('t').getEffectiveLevel())", NIXL_LOG_LEVEL=value)
    assert lines[-1] == str(level)
    assert (len(lines) == 2) == (level <= logging.INFO)


def test_unknown_level_is_a_warning():
    lines = output("import logging; print(get_logger('t').getEffectiveLevel())", NIXL_LOG_LEVEL="LOUD")
    assert "WARNING" in lines[0] and "LOUD" in lines[0]
    assert lines[1] == "20"


@pytest.mark.parametrize("value, raises", [(None, False), ("0", False), ("true", True), ("1", True), ("yes", True)])
def test_debug_logging_shows_logging_errors(value, raises):
    environment = {} if value is None else {"NIXL_DEBUG_LOGGING": value}
    code = "import logging; get_logger('t'); print(logging.raiseExceptions)"
    assert output(code, **environment) == [str(raises)]


def test_healthy_agent_prints_nothing():
    code = "import nixl; nixl.nixl_agent('a', nixl.nixl_agent_config(backends=['LOOPBACK'])).get_agent_metadata()"
    assert output(code, NIXL_CONFIG_FILE=os.devnull) == []
