# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Loggers of the Python side: children of the logger "nixl", which writes to standard output.

NIXL_LOG_LEVEL sets the level (TRACE and DEBUG mean DEBUG; INFO; WARN; ERROR; FATAL means CRITICAL).
"""

import logging
import logging.config
import os
from typing import Any

LOGGING_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "nixl": {
            "format": "%(asctime)s NIXL %(levelname)-7s %(filename)s:%(lineno)d %(message)s",
            "datefmt": "%Y-%m-%d %H:%M:%S",
        },
    },
    "handlers": {
        "nixl": {
            "class": "logging.StreamHandler",
            "formatter": "nixl",
            "stream": "ext://sys.stdout",
        },
    },
    "loggers": {
        "nixl": {
            "handlers": ["nixl"],
            "level": "INFO",
            "propagate": False,
        },
    },
}

_LEVELS = {
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
}

_is_set_up = False


def set_log_level_by_env() -> None:
    """Apply NIXL_LOG_LEVEL to the logger "nixl"; a level that does not exist is a warning."""
    wanted = os.environ.get("NIXL_LOG_LEVEL")
    if not wanted:
        return
    root = logging.getLogger("nixl")
    level = _LEVELS.get(wanted.upper())
    if level is None:
        root.warning("NIXL_LOG_LEVEL '%s' is not one of %s; it is ignored", wanted, ", ".join(_LEVELS))
        return
    root.setLevel(level)
    root.info("log level set to %s by NIXL_LOG_LEVEL", wanted.upper())


def setup_logging() -> None:
    """Configure the logger "nixl" once; later calls do nothing."""
    global _is_set_up
    if _is_set_up:
        return
    _is_set_up = True
    logging.config.dictConfig(LOGGING_CONFIG)
    logging.raiseExceptions = os.environ.get("NIXL_DEBUG_LOGGING", "").lower() in ("true", "1", "yes")
    set_log_level_by_env()


def get_logger(name: str) -> logging.Logger:
    """The logger "nixl.<name>", without leading underscores of `name`."""
    setup_logging()
    return logging.getLogger("nixl." + name.lstrip("_"))
