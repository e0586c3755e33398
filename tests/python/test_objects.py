# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What storage connectors do with objects over OBJ: keys as metadata or ids, queries, whole objects, many of them."""

import asyncio

import numpy as np
import pytest

import nixl
import nixl._bindings as bindings
from support import address, random_bytes, run, whole

PAGE = 4096


@pytest.fixture
def agent(bucket):
    made = nixl.nixl_agent("storage", nixl.nixl_agent_config(backends=[]))
    made.create_backend("OBJ")  # all the rest is in the environment
    return made


def memory(agent, array):
    """The array, registered, as a transfer list."""
    agent.register_memory([(*whole(array), "")], "DRAM")
    return agent.get_xfer_descs([whole(array)], "DRAM")


def move(agent, operation, descs, places):
    handle = agent.initialize_xfer(operation, descs, places, agent.name)
    run(agent, handle)
    agent.release_xfer_handle(handle)


def test_the_plugin_says_what_it_takes(agent):
    assert {"DRAM_SEG", "OBJ_SEG"} <= set(agent.get_plugin_mem_types("OBJ"))
    assert {"bucket", "endpoint_override", "num_threads"} <= set(agent.get_plugin_params("OBJ"))
    again = nixl.nixl_agent("again", nixl.nixl_agent_config(backends=[], num_threads=2))
    again.create_backend("OBJ", agent.get_plugin_params("OBJ"))  # programs pass them back


def test_a_whole_object_there_and_back(agent, bucket):
    data, back = random_bytes(10 * PAGE + 7), np.zeros(10 * PAGE + 7, np.uint8)
    registered = agent.register_memory([(0, data.nbytes, 1, "a key/with ü?&+%")], "OBJ")
    move(agent, "WRITE", memory(agent, data), registered.trim())
    assert (bucket / "a key" / "with ü?&+%").read_bytes() == data.tobytes()
    move(agent, "READ", memory(agent, back), registered.trim())
    np.testing.assert_array_equal(back, data)
    assert agent.deregister_memory(registered) is None


def test_pages_by_key_with_ids_of_their_own(agent, bucket):
    """Host pages are written to an object each, and read again under other ids, in one request each time."""
    pages = 50
    host = random_bytes(pages * PAGE)
    copy = host.copy()
    agent.register_memory(agent.get_reg_descs([(*whole(host), "")], "DRAM"))
    rows = [(address(host) + i * PAGE, PAGE, 0) for i in range(pages)]
    for round_, operation in enumerate(("WRITE", "READ", "READ")):
        objects = [(0, PAGE, round_ * pages + i, f"page-{i}") for i in range(pages)]
        descs = agent.get_reg_descs(objects, "OBJ")
        registered = agent.register_memory(descs)
        handle = agent.initialize_xfer(operation, agent.get_xfer_descs(rows, "DRAM"), descs.trim(), "storage")
        run(agent, handle)
        agent.release_xfer_handle(handle)
        agent.deregister_memory(registered)
        if operation == "READ":
            np.testing.assert_array_equal(host, copy)
        host[:] = 0
    assert len(list(bucket.glob("page-*"))) == pages


def test_a_query_tells_what_is_there(agent, bucket):
    (bucket / "there").write_bytes(b"x" * 123)
    answers = agent.query_memory([(0, 0, 0, "there"), (0, 0, 0, "nowhere")] * 500, "OBJ", "OBJ")
    assert answers == [{"size": "123"}, None] * 500


def test_a_part_is_read_and_none_written(agent, bucket):
    (bucket / "numbers").write_bytes(bytes(range(100)))
    part = np.zeros(10, np.uint8)
    agent.register_memory([(0, 0, 5, "numbers")], "OBJ")
    descs = memory(agent, part)
    move(agent, "READ", descs, agent.get_xfer_descs([(42, 10, 5)], "OBJ"))
    np.testing.assert_array_equal(part, np.arange(42, 52, dtype=np.uint8))
    with pytest.raises(bindings.nixlInvalidParamError, match="written as a whole"):
        agent.initialize_xfer("WRITE", descs, agent.get_xfer_descs([(42, 10, 5)], "OBJ"), agent.name)


def test_an_error_says_which_object_and_what_the_server_said(agent):
    data = np.zeros(10, np.uint8)
    registered = agent.register_memory([(0, 10, 1, "missing")], "OBJ")
    with pytest.raises(bindings.nixlNotFoundError, match=r"object 'missing' .*NoSuchKey \(404\).*request id"):
        move(agent, "READ", memory(agent, data), registered.trim())


def test_waiting_for_an_object(agent):
    data, back = random_bytes(PAGE), np.zeros(PAGE, np.uint8)
    registered = agent.register_memory([(0, PAGE, 1, "awaited")], "OBJ")

    async def there_and_back():
        for operation, array in (("WRITE", data), ("READ", back)):
            handle = agent.initialize_xfer(operation, memory(agent, array), registered.trim(), agent.name)
            agent.transfer(handle)
            assert await agent.done(handle) == "DONE"
            agent.release_xfer_handle(handle)

    asyncio.run(there_and_back())
    np.testing.assert_array_equal(back, data)


def test_what_cannot_be_is_refused_at_creation(agent):
    other = nixl.nixl_agent("other", nixl.nixl_agent_config(backends=[]))
    nowhere = {"endpoint_override": "x"}
    for params, match in (({"accelerated": "true"}, "vendor"), ({"type": "dell"}, "vendor"),
                          ({"endpoint_override": "nonsense://x"}, "nonsense"),
                          (nowhere | {"ca_bundle": "/no/file"}, "/no/file")):
        with pytest.raises(bindings.nixlBackendError, match=match):
            other.create_backend("OBJ", params)
