# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The sequences of calls that inference engines make, in their own spelling of arguments."""

import contextlib
import pickle
import threading

import numpy as np
import pytest

from support import address, config, eventually, make_pair, random_bytes, run, whole

LAYERS, BLOCKS, BLOCK = 4, 32, 512


def caches(seed):
    return [random_bytes(BLOCKS * BLOCK, seed + layer) for layer in range(LAYERS)]


def block_rows(layers):
    starts = np.array([address(layer) for layer in layers], dtype=np.uint64)[:, None]
    offsets = np.arange(BLOCKS, dtype=np.uint64) * np.uint64(BLOCK)
    addresses = (starts + offsets).reshape(-1)
    return np.column_stack([addresses, np.full_like(addresses, BLOCK), np.zeros_like(addresses)])


def test_disaggregated_prefill_with_prepared_lists(backend):
    """Decode reads blocks of prefill: numpy descriptors, int64 indices, names as bytes, message for each request."""
    from nixl._api import nixl_agent, nixl_agent_config
    from nixl._bindings import nixlXferTelemetry

    prefill_cache, decode_cache = caches(1), [np.zeros(BLOCKS * BLOCK, dtype=np.uint8) for _ in range(LAYERS)]
    options = dict(num_threads=4, capture_telemetry=True) if backend == "UCX" else dict(capture_telemetry=True)
    prefill = nixl_agent("prefill-0", nixl_agent_config(backends=[backend], **options))
    decode = nixl_agent("decode-0", nixl_agent_config(backends=[backend], **options))
    for agent, cache in ((prefill, prefill_cache), (decode, decode_cache)):
        data = [(address(layer), layer.nbytes, 0, "") for layer in cache]
        agent.register_memory(agent.get_reg_descs(data, "DRAM"), backends=[backend])

    remote_name = decode.add_remote_agent(prefill.get_agent_metadata())
    prefill.add_remote_agent(decode.get_agent_metadata())
    local = decode.prep_xfer_dlist("NIXL_INIT_AGENT", decode.get_xfer_descs(block_rows(decode_cache), "DRAM"))
    remote = decode.prep_xfer_dlist(remote_name, decode.get_xfer_descs(block_rows(prefill_cache), "DRAM"))

    blocks = np.array([2, 3, 4, 17], dtype=np.int64)
    indices = (np.arange(LAYERS, dtype=np.int64)[:, None] * BLOCKS + blocks).reshape(-1)
    handle = decode.make_prepped_xfer("READ", local, indices, remote, indices, notif_msg=b"request-1:1")
    in_flight = {handle: "request-1"}
    decode.transfer(handle)
    eventually(lambda: decode.check_xfer_state(handle) == "DONE")
    telemetry = decode.get_xfer_telemetry(handle)
    assert isinstance(telemetry, nixlXferTelemetry) and telemetry.totalBytes == indices.size * BLOCK
    decode.release_xfer_handle(handle)
    assert in_flight.pop(handle) == "request-1"

    for ours, theirs in zip(decode_cache, prefill_cache, strict=True):
        np.testing.assert_array_equal(ours.reshape(BLOCKS, BLOCK)[blocks], theirs.reshape(BLOCKS, BLOCK)[blocks])
        assert not ours.reshape(BLOCKS, BLOCK)[5].any()
    messages = []
    eventually(lambda: messages.extend(prefill.get_new_notifs().get("decode-0", [])) or messages)
    assert messages == [b"request-1:1"]

    decode.send_notif(remote_agent_name=remote_name, notif_msg=b"heartbeat")
    eventually(lambda: prefill.get_new_notifs().get("decode-0") == [b"heartbeat"])
    decode.release_dlist_handle(local)
    decode.release_dlist_handle(remote)
    decode.remove_remote_agent(remote_name)


def test_transfer_workers_with_reused_agent(backend):
    """Workers write pages with int32 indices and positional messages, and never release a handle."""
    from nixl._api import nixl_agent, nixl_agent_config, nixl_thread_sync_t
    from nixl._bindings import nixlBackendError, nixlCancelledError, nixlRemoteDisconnectError

    assert all(issubclass(e, Exception) for e in (nixlBackendError, nixlCancelledError, nixlRemoteDisconnectError))
    conf = nixl_agent_config(backends=[], sync_mode=nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT)
    agent, peer = nixl_agent("sender", conf), nixl_agent("receiver", conf)
    for each in (agent, peer):
        assert backend in each.get_plugin_list()
        each.create_backend(backend, {})
    pages, landing = caches(21), [np.zeros(BLOCKS * BLOCK, dtype=np.uint8) for _ in range(LAYERS)]
    pages_descs = agent.register_memory([(address(p), p.nbytes, 0, "") for p in pages], "DRAM")
    assert pages_descs
    peer.register_memory([(address(p), p.nbytes, 0, "") for p in landing], "DRAM")
    agent.add_remote_agent(peer.get_agent_metadata())
    peer_side = agent.prep_xfer_dlist("receiver", block_rows(landing), "DRAM")
    own_side = agent.prep_xfer_dlist("", block_rows(pages), "DRAM")
    errors = []

    def worker(layer):
        try:
            for start in range(0, BLOCKS, 8):
                indices = np.arange(layer * BLOCKS + start, layer * BLOCKS + start + 8, dtype=np.int32)
                message = f"room_kv_{layer}_{start}".encode()
                handle = agent.make_prepped_xfer("WRITE", own_side, indices, peer_side, indices, message)
                if not handle:
                    raise RuntimeError("no handle")
                state = agent.transfer(handle)
                while state != "DONE":
                    assert state == "PROC"
                    state = agent.check_xfer_state(handle)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=worker, args=(layer,)) for layer in range(LAYERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    received, expected = [], LAYERS * BLOCKS // 8
    eventually(lambda: received.extend(peer.get_new_notifs().get("sender", [])) or len(received) >= expected)
    assert len(set(received)) == len(received) == expected
    for ours, theirs in zip(landing, pages, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_storage_connector_with_its_own_bindings_agent():
    """The raw agent is swapped in, and memory moves under the own name."""
    from nixl._api import nixl_agent, nixl_agent_config, nixlBind

    agent = nixl_agent("storage", nixl_agent_config(backends=[]))
    raw_config = nixlBind.nixlAgentConfig()
    raw_config.useProgThread = True
    raw_config.syncMode = nixlBind.nixl_thread_sync_t.NIXL_THREAD_SYNC_RW
    agent.agent = nixlBind.nixlAgent("storage", raw_config)
    agent.plugin_list = agent.agent.getAvailPlugins()
    agent.create_backend("LOOPBACK", {})
    assert agent.get_backend_params("LOOPBACK") is not None
    host, pool = random_bytes(4 * BLOCK), np.zeros(4 * BLOCK, dtype=np.uint8)
    registered = agent.register_memory(agent.get_reg_descs([(*whole(host), ""), (*whole(pool), "")], "DRAM"))
    host_descs, pool_descs = agent.get_xfer_descs([whole(host)], "DRAM"), agent.get_xfer_descs([whole(pool)], "DRAM")
    assert host_descs and pool_descs and registered.trim()
    handle = agent.initialize_xfer("WRITE", host_descs, pool_descs, agent.name)
    run(agent, handle)
    np.testing.assert_array_equal(pool, host)
    agent.release_xfer_handle(handle)
    agent.deregister_memory(registered)


def test_channel_that_pickles_everything(backend):
    """Metadata and serialized descriptors travel as messages; prepared sides use plain lists; nothing is released."""
    pair = make_pair(backend, size=BLOCKS * BLOCK)
    message = pickle.dumps(
        {
            "metadata": pair.target.get_agent_metadata(),
            "descs": pair.target.get_serialized_descs(
                pair.target.get_xfer_descs([tuple(map(int, row)) for row in block_rows([pair.sink])], "cpu")
            ),
        }
    )
    opened = pickle.loads(message)
    name = pair.initiator.add_remote_agent(opened["metadata"])
    assert isinstance(name, bytes)
    remote_descs = pair.initiator.deserialize_descs(opened["descs"])
    remote = pair.initiator.prep_xfer_dlist(name, remote_descs)
    local_rows = [(address(pair.source) + i * BLOCK, BLOCK, 0) for i in range(BLOCKS)]
    local = pair.initiator.prep_xfer_dlist("", local_rows, mem_type="cpu")
    handle = pair.initiator.make_prepped_xfer("WRITE", local, list(range(BLOCKS)), remote, list(range(BLOCKS)))
    run(pair.initiator, handle)
    np.testing.assert_array_equal(pair.sink, pair.source)


def test_object_transport_that_refreshes_its_peer(backend):
    """Every fetch adds the peer again with grown metadata; the list is walked by index; the peer goes and returns."""
    pair = make_pair(backend)
    grown = []
    for turn in range(3):
        tensor = random_bytes(2048, seed=40 + turn)
        grown.append(tensor)
        registered = pair.target.register_memory([(*whole(tensor), "")], "cpu")
        packet = pickle.dumps((pair.target.get_agent_metadata(), registered.trim()))
        metadata, remote = pickle.loads(packet)
        pair.initiator.add_remote_agent(metadata)
        assert [remote[i] for i in range(remote.descCount())] == [whole(tensor)]
        buffer = np.zeros_like(tensor)
        local_registered = pair.initiator.register_memory([(*whole(buffer), "")], "cpu")
        handle = pair.initiator.initialize_xfer("READ", local_registered.trim(), remote, "target", "fetched")
        run(pair.initiator, handle)
        np.testing.assert_array_equal(buffer, tensor)
        pair.initiator.release_xfer_handle(handle)
        pair.initiator.deregister_memory(local_registered)
    pair.initiator.remove_remote_agent("target")
    pair.initiator.add_remote_agent(pair.target.get_agent_metadata())
    run(pair.initiator, pair.request())


def test_connector_that_decodes_names_and_uses_keywords(backend):
    """Keyword arguments throughout, and update_notifs as the way to wait for the peer."""
    pair = make_pair(backend)
    name = pair.initiator.add_remote_agent(pair.target.get_agent_metadata())
    name = name.decode("utf-8") if isinstance(name, bytes) else name
    local, remote = pair.descs()
    handle = pair.initiator.initialize_xfer(
        operation="WRITE", local_descs=local, remote_descs=remote, remote_agent=name, notif_msg=b"\x00key"
    )
    state = pair.initiator.transfer(handle, b"\x00key")
    eventually(lambda: state == "DONE" or pair.initiator.check_xfer_state(handle) == "DONE")
    eventually(lambda: pair.target.update_notifs().get("initiator") == [b"\x00key"])
    with contextlib.suppress(Exception):
        pair.initiator.release_xfer_handle(handle)


def test_backend_created_after_registration_is_legal(backend):
    from nixl._api import nixl_agent

    agent = nixl_agent("late", config("LOOPBACK"))
    data = random_bytes(4096)
    agent.register_memory([(*whole(data), "")], "DRAM")
    if backend != "LOOPBACK":
        agent.create_backend(backend)
    other = np.zeros_like(data)
    agent.register_memory([(*whole(other), "")], "DRAM")
    source, sink = (agent.get_xfer_descs([whole(a)], "DRAM") for a in (data, other))
    run(agent, agent.initialize_xfer("WRITE", source, sink, "late"))
    np.testing.assert_array_equal(other, data)


def test_uncovered_descriptor_is_an_error_before_any_byte_moves(pair):
    beyond = (address(pair.sink), pair.sink.nbytes + 1, 0)
    import nixl._bindings as b

    with pytest.raises((b.nixlNotFoundError, b.nixlInvalidParamError)):
        pair.initiator.prep_xfer_dlist("target", [beyond], "DRAM")
    assert not pair.sink.any()
