# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The Python API: agents, descriptor lists, transfers and notifications.

Conventions: addresses and lengths are ints in bytes; agent names and messages may be str or bytes; memory types are
"DRAM", "VRAM", "FILE", "BLOCK" or "OBJ"; a failed call raises one of the nixl...Error classes of `nixl._bindings`,
whose str() is "STATUS_NAME: sentence" and whose `status` is the bare name. Any thread may call any method.
"""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Optional, Union

from . import _bindings as nixlBind
from ._bindings import DEFAULT_COMM_PORT
from ._waiting import Awaits
from .logging import get_logger

if TYPE_CHECKING:
    import numpy as np

logger = get_logger(__name__.rpartition(".")[2])

nixl_backend_handle = int

_Text = Union[str, bytes]
_Indices = Union[Iterable[int], "np.ndarray"]

# What plugins written for NIXL 1.4, which say no roles, call the option that num_threads stands for.
_THREADS_IN_1_4 = {
    "UCX": "num_threads",
    "OBJ": "num_threads",
    "LIBFABRIC": "num_threads",
    "GDS_MT": "thread_count",
    "UCCL": "num_cpus",
}


def __getattr__(name: str) -> Any:
    # numpy is imported only where a program has done so itself: it is most of the time that `import nixl` would take.
    if name == "np":
        import numpy

        return numpy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _is_torch_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_str(text: _Text) -> str:
    return text if isinstance(text, str) else bytes(text).decode("utf-8", "surrogateescape")


def _request(handle: Any) -> int:
    if not isinstance(handle, nixl_xfer_handle):
        raise TypeError(f"not a transfer's handle: a {type(handle).__name__}")
    return handle._handle


def _as_bytes(text: _Text) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)


class nixl_thread_sync_t(Enum):
    """How an agent guards itself. Accepted for compatibility: every mode is safe from any thread."""

    NIXL_THREAD_SYNC_NONE = nixlBind.NIXL_THREAD_SYNC_NONE
    NIXL_THREAD_SYNC_STRICT = nixlBind.NIXL_THREAD_SYNC_STRICT
    NIXL_THREAD_SYNC_RW = nixlBind.NIXL_THREAD_SYNC_RW
    NIXL_THREAD_SYNC_DEFAULT = nixlBind.NIXL_THREAD_SYNC_DEFAULT


class nixl_agent_config:
    """Configuration of an agent.

    enable_prog_thread: let backends make progress on a thread of their own.
    enable_listen_thread, listen_port: exchange metadata with other agents over TCP; port 0 lets the system choose.
    capture_telemetry: measure each transfer, see nixl_agent.get_xfer_telemetry.
    num_threads: worker threads of backends created with the agent; 0 leaves their default.
    backends: names of the backends to create.
    sync_mode: accepted. TypeError: not an nixl_thread_sync_t.
    """

    def __init__(
        self,
        enable_prog_thread: bool = True,
        enable_listen_thread: bool = False,
        listen_port: int = DEFAULT_COMM_PORT,
        capture_telemetry: bool = False,
        num_threads: int = 0,
        backends: list[str] = ["UCX"],
        sync_mode: Optional[nixl_thread_sync_t] = None,
    ):
        if sync_mode is not None and not isinstance(sync_mode, nixl_thread_sync_t):
            raise TypeError(f"sync_mode must be a nixl_thread_sync_t (got '{type(sync_mode).__name__}')")
        self.backends = list(backends)
        self.enable_pthread = enable_prog_thread
        self.enable_listen = enable_listen_thread
        self.port = listen_port
        self.capture_telemetry = capture_telemetry
        self.num_threads = num_threads
        self.sync_mode = sync_mode


class _Handle:
    """A handle of a bindings agent, which lives at least as long. Freed by release() or by the garbage collector."""

    __slots__ = ()

    def __init__(self, agent: nixlBind.nixlAgent, value: int):
        self._handle = value
        self._agent = agent
        self._released = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(0x{self._handle:x}, released={self._released})"

    def release(self) -> None:
        raise NotImplementedError

    def _give_away(self) -> None:
        raise NotImplementedError

    def __del__(self) -> None:
        try:
            if not self._released:
                self._released = True
                self._give_away()
        except Exception:
            # The agent's state ended first (a fork, the interpreter's end): nothing is left to free.
            pass


class nixl_prepped_dlist_handle(_Handle):
    """A prepared descriptor list."""

    __slots__ = ("_handle", "_agent", "_released")

    def release(self) -> None:
        """Free the list. A second call does nothing; a failing one raises and may be repeated."""
        if self._released:
            return
        self._agent.releasedDlistH(self._handle)
        self._released = True

    def _give_away(self) -> None:
        self._agent.releasedDlistH(self._handle)


class nixl_xfer_handle(_Handle):
    """A transfer request."""

    __slots__ = ("_handle", "_agent", "_released")

    def release(self) -> None:
        """Free the request, cancelling it if it runs. A second call does nothing.

        nixlRepostActiveError: its buffers are not quiet yet; the handle stays valid.
        """
        if self._released:
            return
        self._agent.releaseXferReq(self._handle)
        self._released = True

    def _give_away(self) -> None:
        # Never waits: the garbage collector runs on any thread. The agent cancels a running transfer.
        self._agent.dropXferReq(self._handle)


class _Notifs(dict[str, list[bytes]]):
    """What update_notifs has gathered, by sender. Called, it awaits new notifications, in asyncio."""

    def __init__(self, awaits: Awaits):
        super().__init__()
        self._awaits = awaits

    async def __call__(self) -> dict[str, list[bytes]]:
        """Await notifications; what get_new_notifs would return. Beyond NIXL 1.4.

        Of several coroutines that await, one gets what arrives. Cancelling an await loses nothing. RuntimeError: a
        second event loop awaits something of this agent at the same time.
        """
        return await self._awaits.notifs()


class nixl_agent:
    """An agent: owns backends, registered memory, what is known of peers, and transfers.

    nixl_conf: None for the defaults of nixl_agent_config.
    instantiate_all: create every backend that has a plugin, without nixl_conf only.

    ValueError: an empty name. RuntimeError: no plugin at all, or a broken configuration file. A requested backend
    without a plugin is skipped with a warning; one that cannot start raises.
    """

    def __init__(
        self,
        agent_name: str,
        nixl_conf: Optional[nixl_agent_config] = None,
        instantiate_all: bool = False,
    ):
        if nixl_conf is not None and instantiate_all:
            logger.warning("instantiate_all is ignored because a configuration is given")
            instantiate_all = False
        conf = nixl_conf if nixl_conf is not None else nixl_agent_config()

        self.name = agent_name
        self.backends: dict[str, nixl_backend_handle] = {}
        self.backend_mems: dict[str, list[str]] = {}
        self.backend_options: dict[str, dict[str, str]] = {}
        self.plugin_b_options: dict[str, dict[str, str]] = {}
        self.plugin_mem_types: dict[str, list[str]] = {}
        # Stays empty: a handle that the garbage collector finds is always given back to the agent.
        self._leaked_xfer_handles: list[int] = []
        self.nixl_mems = {
            "DRAM": nixlBind.DRAM_SEG,
            "VRAM": nixlBind.VRAM_SEG,
            "FILE": nixlBind.FILE_SEG,
            "BLOCK": nixlBind.BLK_SEG,
            "OBJ": nixlBind.OBJ_SEG,
            "cpu": nixlBind.DRAM_SEG,
            "cuda": nixlBind.VRAM_SEG,
        }
        self.nixl_ops = {"WRITE": nixlBind.NIXL_WRITE, "READ": nixlBind.NIXL_READ}

        self.agent = nixlBind.nixlAgent(agent_name, _bindings_config(conf))
        self._awaits = Awaits(self.agent)
        self.notifs = _Notifs(self._awaits)
        self.plugin_list = self.agent.getAvailPlugins()
        if not self.plugin_list:
            try:
                self.agent.getPluginParams("UCX")  # says where it was looked for
            except nixlBind.nixlNotFoundError as error:
                raise RuntimeError(f"No plugins available for NIXL, cannot start transfers! {error}") from error
        if instantiate_all:
            self._create_all_backends()
        else:
            self._create_backends(conf)

    def _create_all_backends(self) -> None:
        for backend in self.plugin_list:
            try:
                self.create_backend(backend, self.get_plugin_params(backend))
            except (nixlBind.nixlBackendError, nixlBind.nixlNotAllowedError, nixlBind.nixlNotSupportedError) as error:
                logger.warning("Skipping backend %s: %s", backend, error)

    def _create_backends(self, conf: nixl_agent_config) -> None:
        for backend in conf.backends:
            if backend not in self.plugin_list:
                logger.warning("Skipping backend %s: there is no plugin of this name", backend)
                continue
            params = {}
            if conf.num_threads > 0:
                option = self.agent.getPluginOption(backend, "threads") or _THREADS_IN_1_4.get(backend)
                if option:
                    params[option] = str(conf.num_threads)
            self.create_backend(backend, params)

    def _backend_handles(self, names: Sequence[str]) -> list[int]:
        return [self.backends[name] for name in names] if names else []

    # ---- Plugins and backends ------------------------------------------------------------------------------------

    def get_plugin_list(self) -> list[str]:
        """Names of all plugins found."""
        return self.plugin_list

    def get_plugin_mem_types(self, backend: str) -> list[str]:
        """Memory types a plugin advertises, such as "DRAM_SEG"; [] and a warning if there is no such plugin."""
        return self._plugin_facts(backend, self.plugin_mem_types, [])

    def get_plugin_params(self, backend: str) -> dict[str, str]:
        """Options a plugin advertises with their defaults; {} and a warning if there is no such plugin."""
        return self._plugin_facts(backend, self.plugin_b_options, {})

    def _plugin_facts(self, backend: str, cache: dict, missing: Any) -> Any:
        if backend not in cache:
            if backend not in self.plugin_list:
                logger.warning("There is no plugin %s", backend)
                return missing
            options, mems = self.agent.getPluginParams(backend)
            self.plugin_b_options[backend] = options
            self.plugin_mem_types[backend] = mems
        return cache[backend]

    def get_backend_mem_types(self, backend: str) -> list[str]:
        """Memory types of a created backend; [] and a warning if it was not created."""
        return self._backend_facts(backend, self.backend_mems, [])

    def get_backend_params(self, backend: str) -> dict[str, str]:
        """Options of a created backend; {} and a warning if it was not created."""
        return self._backend_facts(backend, self.backend_options, {})

    def _backend_facts(self, backend: str, cache: dict, missing: Any) -> Any:
        if backend not in cache:
            if backend not in self.backends:
                logger.warning("Backend %s was not created", backend)
                return missing
            options, mems = self.agent.getBackendParams(self.backends[backend])
            self.backend_options[backend] = options
            self.backend_mems[backend] = mems
        return cache[backend]

    def create_backend(self, backend: str, initParams: dict[str, str] = {}) -> None:
        """Create a backend, at most one of each name. Values of initParams are str.

        nixlNotFoundError: no such plugin. nixlBackendError: it refused. nixlInvalidParamError: it exists already.
        nixlNotAllowedError: it conflicts with another.
        """
        self.backends[backend] = self.agent.createBackend(backend, initParams)
        logger.debug("Backend %s was created", backend)

    # ---- Memory --------------------------------------------------------------------------------------------------

    def register_memory(self, reg_list: Any, mem_type: Optional[str] = None, backends: list[str] = []) -> Any:
        """Register what get_reg_descs accepts, with the named backends or all; returns the nixlRegDList.

        The memory must stay valid until it is deregistered. nixlNotFoundError: no backend for this memory.
        nixlBackendError: all backends refused. TypeError: reg_list cannot be converted. KeyError: unknown backend.
        """
        reg_descs = self.get_reg_descs(reg_list, mem_type)
        self.agent.registerMem(reg_descs, self._backend_handles(backends))
        return reg_descs

    def deregister_memory(self, dereg_list: Any, backends: list[str] = []) -> None:
        """Undo register_memory for an nixlRegDList whose ranges equal registered ones.

        nixlNotFoundError: one of them is not registered. nixlRepostActiveError: do not free the memory yet; the
        sentence says when (docs/errors.md).
        """
        self.agent.deregisterMem(dereg_list, self._backend_handles(backends))

    def query_memory(self, reg_list: Any, backend: str, mem_type: Optional[str] = None) -> list:
        """Ask a backend about files or objects: per descriptor a dict of properties, or None if it is absent.

        ValueError: the backend was not created.
        """
        if backend not in self.backends:
            raise ValueError(f"backend {backend} was not created")
        return self.agent.queryMem(self.get_reg_descs(reg_list, mem_type), self.backends[backend])

    # ---- Transfers -----------------------------------------------------------------------------------------------

    def make_connection(self, remote_agent: _Text, backends: list[str] = []) -> None:
        """Connect now instead of on the first transfer. nixlNotFoundError: the peer's metadata is not loaded."""
        self.agent.makeConnection(remote_agent, self._backend_handles(backends))

    def prep_xfer_dlist(
        self,
        agent_name: _Text,
        xfer_list: Any,
        mem_type: Optional[str] = None,
        backends: list[str] = [],
    ) -> nixl_prepped_dlist_handle:
        """Resolve a descriptor list once for many transfers.

        agent_name: "NIXL_INIT_AGENT" or "" for local memory, otherwise the peer, or the own name, on whose memory
        transfers will act.
        xfer_list: what get_xfer_descs accepts, or an N x 5 array of int64 or uint64 with rows (address, length in
        bytes, device id, stride in bytes, count), each standing for `count` descriptors; mem_type is needed with an
        array.

        nixlNotFoundError: the agent is not known or a descriptor is not registered. TypeError: xfer_list cannot be
        converted.
        """
        handles = self._backend_handles(backends)
        name = "" if agent_name in ("NIXL_INIT_AGENT", b"NIXL_INIT_AGENT") else agent_name
        if mem_type is not None and _is_array(xfer_list) and len(xfer_list) and xfer_list.shape[1:] in ((3,), (5,)):
            value = self.agent.prepXferDlist(name, self.nixl_mems[mem_type], xfer_list, handles)
        else:
            value = self.agent.prepXferDlist(name, self.get_xfer_descs(xfer_list, mem_type), handles)
        return nixl_prepped_dlist_handle(self.agent, value)

    def estimate_xfer_cost(self, req_handle: nixl_xfer_handle) -> tuple[int, int, str]:
        """Predicted duration and error margin in microseconds, and the method ("ANALYTICAL_BACKEND")."""
        duration, margin, method = self.agent.estimateXferCost(req_handle._handle)
        is_analytical = method == int(nixlBind.NIXL_COST_ANALYTICAL_BACKEND)
        return duration, margin, "ANALYTICAL_BACKEND" if is_analytical else "UNKNOWN"

    def make_prepped_xfer(
        self,
        operation: str,
        local_xfer_side: nixl_prepped_dlist_handle,
        local_indices: _Indices,
        remote_xfer_side: nixl_prepped_dlist_handle,
        remote_indices: _Indices,
        notif_msg: _Text = b"",
        backends: list[str] = [],
        skip_desc_merge: bool = False,
    ) -> nixl_xfer_handle:
        """Make a transfer between elements of two prepared lists: local_indices[i] with remote_indices[i].

        operation: "READ" fills local memory, "WRITE" fills remote memory; otherwise KeyError.
        local_indices, remote_indices: equally many; one-dimensional arrays of any integer dtype or any other iterable
        of numbers (contiguous int32 arrays are used without a copy).
        notif_msg: delivered to the peer after the data; empty for none.

        nixlInvalidParamError: sides, counts, an index out of range, or lengths that differ. nixlNotFoundError: the
        peer is gone. ValueError: an array that is not one-dimensional.
        """
        value = self.agent.makeXferReq(
            self.nixl_ops[operation],
            local_xfer_side._handle,
            local_indices,
            remote_xfer_side._handle,
            remote_indices,
            notif_msg,
            self._backend_handles(backends),
            skip_desc_merge,
        )
        return nixl_xfer_handle(self.agent, value)

    def initialize_xfer(
        self,
        operation: str,
        local_descs: nixlBind.nixlXferDList,
        remote_descs: nixlBind.nixlXferDList,
        remote_agent: _Text,
        notif_msg: _Text = b"",
        backends: list[str] = [],
    ) -> nixl_xfer_handle:
        """Make a transfer between two nixlXferDLists of equal count and lengths. See make_prepped_xfer.

        nixlInvalidParamError: the lists differ. nixlNotFoundError: the agent is not known, or no backend resolves
        both lists.
        """
        value = self.agent.createXferReq(
            self.nixl_ops[operation],
            local_descs,
            remote_descs,
            remote_agent,
            notif_msg,
            self._backend_handles(backends),
        )
        return nixl_xfer_handle(self.agent, value)

    def transfer(self, handle: nixl_xfer_handle, notif_msg: _Text = b"") -> str:
        """Start a transfer, or start it again. "DONE", or "PROC" while it runs; a failure raises.

        notif_msg: replaces the message given at creation; empty keeps it. nixlRepostActiveError: it still runs.
        """
        return self.agent._post(handle._handle, notif_msg)

    def check_xfer_state(self, handle: nixl_xfer_handle) -> str:
        """State of a transfer: "DONE" when nobody touches the buffers any more, "PROC" while it runs; else raises."""
        return self.agent._poll(handle._handle)

    def wait(self, handle: nixl_xfer_handle, timeout: Optional[float] = None) -> str:
        """Wait until a transfer does not run any more; as check_xfer_state then. Beyond NIXL 1.4.

        timeout: seconds, 0 looks once, None waits for ever. "PROC" when that time is over.

        Sleeps, lets other Python threads run, and is woken when something happens; Ctrl-C is heard within 100 ms.
        Cancelled, or its handle released, by another thread: raises. TypeError: not the handle of a transfer.
        """
        return self.agent._wait(_request(handle), timeout)

    def wait_any(
        self, handles: Iterable[nixl_xfer_handle], timeout: Optional[float] = None
    ) -> list[nixl_xfer_handle]:
        """Wait until at least one of several transfers does not run. Beyond NIXL 1.4.

        Returns all that do not, in their order, however they ended: ask check_xfer_state. An empty list when the time
        is over. Else as wait. nixlInvalidParamError: there are none, or one was released.
        """
        each = list(handles)
        return [each[position] for position in self.agent._waitAny([_request(handle) for handle in each], timeout)]

    async def done(self, handle: nixl_xfer_handle) -> str:
        """Await the end of a transfer, in asyncio: "DONE", or raises as check_xfer_state. Beyond NIXL 1.4.

        Any number of coroutines may await, for the same or other transfers. Cancelling the await (a timeout of
        asyncio's for example) leaves the transfer alone; it can be awaited again. RuntimeError: a second event loop
        awaits something of this agent at the same time.
        """
        return await self._awaits.done(_request(handle))

    def fileno(self) -> int:
        """A descriptor for an event loop other than asyncio's, always the same one. Beyond NIXL 1.4.

        Watch it for reading. While it is readable something may have happened: look at all you wait for
        (check_xfer_state, wait_any with a timeout of 0, get_new_notifs), and then call fileno() again, which alone
        makes it unreadable, unless something has happened since the last call. select.select does that by itself.
        Without a progress thread the looks and this call make the progress.
        """
        return self.agent.eventFd()

    def set_xfer_limits(
        self, handle: nixl_xfer_handle, deadline: Optional[float] = None, stall: Optional[float] = None
    ) -> None:
        """Limit how long each later post of a transfer may take. Beyond NIXL 1.4.

        deadline: seconds from transfer() to the end; a new transfer has none.
        stall: seconds in which nothing moves on the path to the peer, for this transfer or for others; a new transfer
        has those of NIXL_STALL_LIMIT_MS, or 30.
        Each from 0.001 to 86400, math.inf for no limit, None for as it was.

        When a limit passes, the transfer is cancelled and nixlTimeoutError is raised once nobody touches its buffers
        any more. nixlInvalidParamError: out of range. nixlRepostActiveError: the transfer runs.
        """
        self.agent.setXferLimits(handle._handle, deadline, stall)

    def cancel_xfer(self, handle: nixl_xfer_handle) -> None:
        """Ask a running transfer to end; returns at once. Beyond NIXL 1.4.

        check_xfer_state then raises nixlCancelledError once nobody touches the buffers any more, or says "DONE" if the
        transfer finished first. No effect on one that does not run.
        """
        self.agent.cancelXferReq(handle._handle)

    def get_xfer_telemetry(self, handle: nixl_xfer_handle) -> nixlBind.nixlXferTelemetry:
        """What was measured about a finished transfer, durations in microseconds; all zero while it runs.

        nixlNoTelemetryError: capture_telemetry is off. nixlNotPostedError: it was never started.
        """
        return self.agent.getXferTelemetry(handle._handle)

    def get_xfer_report(self, handle: nixl_xfer_handle) -> nixlBind.XferReport:
        """How a transfer travels and why: backend, path, candidates, bytes, attempts, error. Beyond NIXL 1.4."""
        return self.agent.getXferReport(handle._handle)

    def query_xfer_backend(self, handle: nixl_xfer_handle) -> str:
        """Name of the backend that moves the data."""
        return self.agent.getBackendType(self.agent.queryXferBackend(handle._handle))

    def release_xfer_handle(self, handle: nixl_xfer_handle) -> None:
        """Free a transfer, cancelling it if it runs. nixlRepostActiveError: not quiet yet, try again."""
        handle.release()

    def release_dlist_handle(self, handle: nixl_prepped_dlist_handle) -> None:
        """Free a prepared list. Transfers made from it stay valid."""
        handle.release()

    def prep_mem_view(self, dlist: Any, *, backends: Optional[list[str]] = None) -> int:
        """A view for device code of an nixlXferDList (local memory) or nixlRemoteDList; returns its handle."""
        return self.agent.prepMemView(dlist, self._backend_handles(backends or []))

    def release_mem_view(self, mvh: int) -> None:
        """Free a memory view."""
        self.agent.releaseMemView(mvh)

    # ---- Notifications -------------------------------------------------------------------------------------------

    def get_new_notifs(self, backends: list[str] = []) -> dict[str, list[bytes]]:
        """What arrived since the last call, by sender. Also makes progress when there is no progress thread."""
        if not backends:
            return self._awaits.take(self.agent._newNotifs())
        return self.agent.getNotifs(self._awaits.take({}), self._backend_handles(backends))

    def wait_notifs(self, timeout: Optional[float] = None, backends: list[str] = []) -> dict[str, list[bytes]]:
        """Wait until something arrives; what get_new_notifs would return. Beyond NIXL 1.4.

        timeout: seconds, 0 looks once, None waits for ever. An empty dict when that time is over. Sleeps as wait does.
        """
        arrived = self._awaits.take({})
        return arrived or self.agent._waitNotifs(timeout, self._backend_handles(backends))

    def update_notifs(self, backends: list[str] = []) -> dict[str, list[bytes]]:
        """Append what arrived to `self.notifs` and return that."""
        self.notifs = self.agent.getNotifs(self.notifs, self._backend_handles(backends))
        return self.notifs

    def check_remote_xfer_done(
        self,
        remote_agent_name: _Text,
        lookup_tag: _Text,
        backends: list[str] = [],
        tag_is_prefix: bool = True,
    ) -> bool:
        """Whether a message of the peer begins with `lookup_tag` (or contains it); removes the first that does.

        An empty message that matches is found, but stays.
        """
        self.update_notifs(backends)
        tag = _as_bytes(lookup_tag)
        messages = self.notifs.get(_as_str(remote_agent_name), [])
        for position, message in enumerate(messages):
            if message.startswith(tag) if tag_is_prefix else tag in message:
                if message:
                    del messages[position]
                return True
        return False

    def send_notif(self, remote_agent_name: _Text, notif_msg: _Text, backend: Optional[str] = None) -> None:
        """Send a message that is not ordered with any transfer. nixlNotFoundError: the peer is not known."""
        if backend is None:
            self.agent._genNotif(remote_agent_name, notif_msg)
        else:
            self.agent.genNotif(remote_agent_name, notif_msg, self._backend_handles([backend]))

    # ---- Metadata ------------------------------------------------------------------------------------------------

    def get_agent_metadata(self) -> bytes:
        """Everything a peer needs to reach this agent and its registered memory."""
        return self.agent.getLocalMD()

    def get_partial_agent_metadata(
        self,
        descs: nixlBind.nixlRegDList,
        inc_conn_info: bool = False,
        backends: list[str] = [],
    ) -> bytes:
        """Metadata of some registrations only, and on request of the connection. nixlNotFoundError: not registered."""
        return self.agent.getLocalPartialMD(descs, inc_conn_info, self._backend_handles(backends))

    def add_remote_agent(self, metadata: _Text) -> bytes:
        """Load a peer's metadata; returns its name as bytes. Loading again adds what is new.

        nixlMismatchError: not metadata. nixlNotAllowedError: contradicts what was loaded before. nixlBackendError: no
        backend in common. nixlInvalidParamError: this agent's own metadata.
        """
        return self.agent.loadRemoteMD(metadata)

    def remove_remote_agent(self, agent: _Text) -> None:
        """Forget a peer. Never raises; transfers to it end with an error."""
        self.agent.invalidateRemoteMD(agent)

    def send_local_metadata(self, ip_addr: str = "", port: int = DEFAULT_COMM_PORT) -> None:
        """Send the metadata to the agent that listens at `ip_addr` (IPv4, IPv6 or a host name) and `port`.

        Without `ip_addr`: publish it at the directory that is set (docs/directory.md).

        Returns when the message is made; it is delivered behind the caller's back: see wait_metadata.
        nixlInvalidParamError: no such address, or there is nothing to publish. nixlNotSupportedError: no `ip_addr`
        and no directory.
        """
        self.agent.sendLocalMD(ip_addr, port)

    def send_partial_agent_metadata(
        self,
        descs: nixlBind.nixlRegDList,
        inc_conn_info: bool = False,
        backends: list[str] = [],
        ip_addr: str = "",
        port: int = DEFAULT_COMM_PORT,
        label: str = "",
    ) -> None:
        """Send the metadata of some registrations, as send_local_metadata; a directory needs a `label` for it."""
        self.agent.sendLocalPartialMD(
            descs, inc_conn_info, self._backend_handles(backends), ip_addr, port, label
        )

    def fetch_remote_metadata(
        self,
        remote_agent: _Text,
        ip_addr: str = "",
        port: int = DEFAULT_COMM_PORT,
        label: str = "",
    ) -> None:
        """Ask the agent that listens at `ip_addr` and `port` for its metadata, which is loaded when it comes.

        Without `ip_addr`: load what `remote_agent` has published at the directory, or publishes within 5 s, under
        `label` ("metadata" without one).

        Returns at once: poll check_remote_metadata, or see wait_metadata. The own agent need not listen.
        """
        self.agent.fetchRemoteMD(remote_agent, ip_addr, port, label)

    def invalidate_local_metadata(self, ip_addr: str = "", port: int = DEFAULT_COMM_PORT) -> None:
        """Tell the agent that listens at `ip_addr` and `port` to forget this agent.

        Without `ip_addr`: take back all that was published at the directory; who has fetched it forgets this agent.
        """
        self.agent.invalidateLocalMD(ip_addr, port)

    def wait_metadata(
        self, timeout: Optional[float] = None, ip_addr: str = "", port: int = DEFAULT_COMM_PORT
    ) -> bool:
        """Wait for what became of the calls above: all of them, or those to one address.

        timeout: seconds; None waits as long as it takes, which the calls' own limits end. Returns False when the time
        is over. True: metadata was loaded here or there, or the peer was told to forget; an agent of NIXL 1.4 does not
        confirm what it loads, so for it delivery counts. Raises the first failure nobody has asked for yet, each once:
        nixlNotFoundError (nobody listens there, no such host, the peer has nothing to publish), nixlTimeoutError,
        nixlRemoteDisconnectError, nixlMismatchError (another agent answered), or why loading was refused.
        """
        milliseconds = -1 if timeout is None else max(0, math.ceil(timeout * 1000))
        while True:
            # Short waits, so that Ctrl-C is heard.
            step = 100 if milliseconds < 0 else min(100, milliseconds)
            if self.agent.waitMetadata(step, ip_addr, port) == nixlBind.NIXL_SUCCESS:
                return True
            if milliseconds >= 0:
                milliseconds -= step
                if milliseconds <= 0:
                    return False

    @property
    def listen_port(self) -> int:
        """Port of the metadata listener, also where 0 was configured. nixlNotFoundError: the agent does not listen."""
        return self.agent.getListenPort()

    def check_remote_metadata(self, agent: _Text, descs: Optional[nixlBind.nixlXferDList] = None) -> bool:
        """Whether a peer is known and, with `descs`, one backend reaches all of them. Never raises for a status."""
        wanted = descs if descs is not None else nixlBind.nixlXferDList(nixlBind.DRAM_SEG)
        return self.agent.checkRemoteMD(agent, wanted) == nixlBind.NIXL_SUCCESS

    # ---- Descriptor lists ----------------------------------------------------------------------------------------

    def get_xfer_descs(self, descs: Any, mem_type: Optional[str] = None) -> Any:
        """Make an nixlXferDList of

        - an nixlXferDList: returned as it is;
        - a list of (address, length, device id) with mem_type;
        - a C-contiguous N x 3 array of int64 or uint64 with such rows, with mem_type;
        - a contiguous torch tensor, or a list of them on one device: their memory.

        Anything else is logged as an error and gives None. IndexError: empty. KeyError: unknown mem_type. ValueError:
        an array of another dtype or layout.
        """
        return self._get_descs(descs, mem_type, nixlBind.nixlXferDList, nixlBind.nixlRegDList, ())

    def get_reg_descs(self, descs: Any, mem_type: Optional[str] = None) -> Any:
        """Make an nixlRegDList, as get_xfer_descs does; tuples are (address, length, device id, metadata)."""
        return self._get_descs(descs, mem_type, nixlBind.nixlRegDList, nixlBind.nixlXferDList, ("",))

    def _get_descs(self, descs: Any, mem_type: Optional[str], wanted: type, other: type, metadata: tuple) -> Any:
        if isinstance(descs, wanted):
            return descs
        if isinstance(descs, other):
            logger.error("Expected an %s, got an %s", wanted.__name__, other.__name__)
            return None
        first = descs if _is_torch_tensor(descs) else descs[0]
        if isinstance(first, tuple):
            width = 3 + len(metadata)
            if mem_type is None or len(first) != width:
                logger.error("Descriptors must be tuples of %d elements, with a mem_type", width)
                return None
            return wanted(self.nixl_mems[mem_type], list(descs))
        if _is_array(descs):
            if mem_type is None or descs.ndim != 2 or descs.shape[1] != 3:
                logger.error("Descriptors in an array must be of shape N x 3, with a mem_type")
                return None
            return wanted(self.nixl_mems[mem_type], descs)
        if _is_torch_tensor(first):
            return _tensor_descs([descs] if first is descs else descs, wanted, metadata)
        logger.error("Cannot make descriptors of a %s", type(descs).__name__)
        return None

    def get_remote_descs(self, descs: Any, mem_type: Optional[str] = None) -> Any:
        """Make an nixlRemoteDList of a list of (address, length, device id, agent name), or return one as it is.

        Anything else is logged as an error and gives None.
        """
        if isinstance(descs, nixlBind.nixlRemoteDList):
            return descs
        if mem_type is None or not isinstance(descs[0], tuple) or len(descs[0]) != 4:
            logger.error("Remote descriptors must be tuples of 4 elements, with a mem_type")
            return None
        return nixlBind.nixlRemoteDList(self.nixl_mems[mem_type], list(descs))

    def get_serialized_descs(self, descs: Any) -> bytes:
        """A descriptor list as bytes, for deserialize_descs of any agent."""
        return pickle.dumps(descs)

    def deserialize_descs(self, serialized_descs: bytes) -> Any:
        """The list that get_serialized_descs wrote. This is pickle: never give it bytes of a stranger."""
        return pickle.loads(serialized_descs)


def _bindings_config(conf: nixl_agent_config) -> nixlBind.nixlAgentConfig:
    sync_mode = conf.sync_mode
    if sync_mode is None:
        is_strict = conf.enable_listen
        modes = nixl_thread_sync_t
        sync_mode = modes.NIXL_THREAD_SYNC_STRICT if is_strict else modes.NIXL_THREAD_SYNC_NONE
    config = nixlBind.nixlAgentConfig()
    config.useProgThread = conf.enable_pthread
    config.useListenThread = conf.enable_listen
    config.listenPort = conf.port
    config.syncMode = sync_mode.value
    config.captureTelemetry = conf.capture_telemetry
    config.pthrDelay = 0
    config.lthrDelay = 100000
    return config


def _tensor_descs(tensors: Sequence[Any], wanted: type, metadata: tuple) -> Any:
    device = tensors[0].get_device()
    descs = []
    for tensor in tensors:
        if not _is_torch_tensor(tensor) or tensor.get_device() != device:
            logger.error("Tensors of one list must be on one device")
            return None
        if not tensor.is_contiguous():
            logger.error("Tensors must be contiguous")
            return None
        descs.append((tensor.data_ptr(), tensor.numel() * tensor.element_size(), max(device, 0), *metadata))
    return wanted(nixlBind.DRAM_SEG if device == -1 else nixlBind.VRAM_SEG, descs)
