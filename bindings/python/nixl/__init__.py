# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""NIXL, the NVIDIA Inference Xfer Library.

Every public name of the submodules `_api`, `_bindings`, `_utils` and `logging` is here, too, and `shared_empty` and
`shared_tensor`, which make arrays and tensors that peers on the same host can map.
"""

from types import ModuleType as _ModuleType

from . import _api, _bindings, _utils, logging
from ._memory import shared_empty, shared_tensor

for _module in (_bindings, _utils, logging, _api):
    for _name, _value in vars(_module).items():
        # Not the modules that they import, the standard library's logging among them.
        if not _name.startswith("_") and (_value is _bindings or not isinstance(_value, _ModuleType)):
            globals()[_name] = _value

__all__ = [
    "DEFAULT_COMM_PORT",
    "nixl_agent",
    "nixl_agent_config",
    "nixl_backend_handle",
    "nixl_prepped_dlist_handle",
    "nixl_thread_sync_t",
    "nixl_xfer_handle",
]


def __getattr__(name):
    if name == "np":
        return _api.np
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
