# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What storage connectors do with files over POSIX: descriptors and paths, queries, many files, waiting."""

import asyncio
import gc
import os
import threading

import numpy as np
import pytest

import nixl
import nixl._bindings as bindings
from support import address, eventually, random_bytes, run, whole

PAGE = 4096


@pytest.fixture(autouse=True)
def needs_posix(plugins):
    if "POSIX" not in plugins:
        pytest.skip("there is no plugin POSIX")


@pytest.fixture
def agent():
    made = nixl.nixl_agent("storage", nixl.nixl_agent_config(backends=[]))
    made.create_backend("POSIX")
    return made


def memory(agent, array):
    """The array, registered, as a transfer list."""
    agent.register_memory([(*whole(array), "")], "DRAM")
    return agent.get_xfer_descs([whole(array)], "DRAM")


def move(agent, operation, descs, places):
    handle = agent.initialize_xfer(operation, descs, places, agent.name)
    run(agent, handle)
    agent.release_xfer_handle(handle)


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_the_plugin_says_what_it_takes(agent):
    assert {"DRAM_SEG", "FILE_SEG"} <= set(agent.get_plugin_mem_types("POSIX"))
    assert {"use_aio", "use_uring", "use_posix_aio"} <= set(agent.get_plugin_params("POSIX"))
    assert {"DRAM_SEG", "FILE_SEG"} <= set(agent.get_backend_mem_types("POSIX"))
    again = nixl.nixl_agent("again", nixl.nixl_agent_config(backends=[]))
    again.create_backend("POSIX", agent.get_plugin_params("POSIX"))  # programs pass them back


@pytest.mark.parametrize("params", [{"use_uring": "true"}, {"use_aio": "true"}, {"use_posix_aio": "true"},
                                    {"ios_pool_size": "1", "kernel_queue_size": "100000"}, {"unknown": "x"}, {}],
                         ids=lambda params: "+".join(params) or "none")
def test_each_queue_moves_data(tmp_path, params):
    agent = nixl.nixl_agent("storage", nixl.nixl_agent_config(backends=[]))
    try:
        agent.create_backend("POSIX", params)
    except nixl._bindings.nixlBackendError as error:
        pytest.skip(f"the system refuses it: {error}")
    data, back = random_bytes(10 * PAGE + 7), np.zeros(10 * PAGE + 7, np.uint8)
    with open(tmp_path / "data", "w+b") as file:
        registered = agent.register_memory([(0, data.nbytes, file.fileno(), "")], "FILE")
        move(agent, "WRITE", memory(agent, data), registered.trim())
        move(agent, "READ", memory(agent, back), registered.trim())
    np.testing.assert_array_equal(back, data)


def test_the_probe_for_path_mode(agent, tmp_path):
    """A path that cannot be opened must raise: a silent success would mean that the device id is a descriptor."""
    missing = str(tmp_path / "no" / "such" / "file")
    for backends in ([], ["POSIX"]):
        with pytest.raises(bindings.nixlBackendError, match="No such file or directory") as raised:
            agent.register_memory(agent.get_reg_descs([(0, PAGE, 1, f"rw:{missing}")], "FILE"), backends=backends)
        assert missing in str(raised.value)
    with pytest.raises(bindings.nixlBackendError, match="drect"):
        agent.register_memory([(0, PAGE, 1, f"rw,drect:{missing}")], "FILE")
    # And one that can does not.
    (tmp_path / "file").write_bytes(b"x" * PAGE)
    assert agent.register_memory([(0, PAGE, 1, f"rw:{tmp_path / 'file'}")], "FILE")


def test_pages_by_path_with_ids_of_their_own(agent, tmp_path):
    """Host pages are written to a file each, the files dropped, and read again under other ids."""
    pages = 50
    host = random_bytes(pages * PAGE)
    copy = host.copy()
    agent.register_memory(agent.get_reg_descs([(*whole(host), "")], "DRAM"))
    rows = [(address(host) + i * PAGE, PAGE, 0) for i in range(pages)]
    before = open_descriptors()
    next_id = 0
    for operation, words in (("WRITE", "rw,create"), ("READ", "ro"), ("READ", "ro")):
        files = [(0, PAGE, next_id + i, f"{words}:{tmp_path}/page-{i}") for i in range(pages)]
        next_id += pages
        file_descs = agent.get_reg_descs(files, "FILE")
        registered = agent.register_memory(file_descs)
        host_descs = agent.get_xfer_descs(rows, "DRAM")
        handle = agent.initialize_xfer(operation, host_descs, file_descs.trim(), "storage")
        assert handle
        state = agent.transfer(handle)
        while state != "DONE":
            assert state == "PROC"
            state = agent.check_xfer_state(handle)
        agent.release_xfer_handle(handle)
        agent.deregister_memory(registered)
        if operation == "READ":
            np.testing.assert_array_equal(host, copy)
        host[:] = 0
    assert open_descriptors() <= before + 1  # whatever waits, once
    assert (tmp_path / "page-7").read_bytes() == copy[7 * PAGE:8 * PAGE].tobytes()


def test_pages_that_are_replaced_as_a_whole(agent, tmp_path):
    """What another program reads at a path is a page that was written as a whole, or was there before."""
    pages, size = 5, 50 * PAGE
    host = np.zeros(pages * size, np.uint8)
    agent.register_memory([(*whole(host), "")], "DRAM")
    host_descs = agent.get_xfer_descs([(address(host) + i * size, size, 0) for i in range(pages)], "DRAM")
    registered = agent.register_memory(
        [(0, size, i, f"rw,create,atomic:{tmp_path}/page-{i}") for i in range(pages)], "FILE")
    assert os.listdir(tmp_path) == []
    stop, seen, errors = threading.Event(), set(), []

    def look():
        while not stop.is_set():
            for name in os.listdir(tmp_path):
                if name.startswith("."):
                    continue
                page = np.fromfile(tmp_path / name, np.uint8)
                if page.size != size or (page != page[0]).any():
                    errors.append((name, page.size))
                seen.add(int(page[0]))

    looker = threading.Thread(target=look)
    looker.start()
    for version in range(1, 41):
        host[:] = version
        move(agent, "WRITE", host_descs, registered.trim())
        host[:] = 0
        move(agent, "READ", host_descs, registered.trim())
        assert (host == version).all()
    eventually(lambda: 40 in seen)
    stop.set()
    looker.join()
    assert not errors
    assert sorted(os.listdir(tmp_path)) == [f"page-{i}" for i in range(pages)]
    # A folder has taken a name.
    os.unlink(tmp_path / "page-3")
    os.mkdir(tmp_path / "page-3")
    with pytest.raises(bindings.nixlBackendError, match="page-3' cannot take its place"):
        move(agent, "WRITE", host_descs, registered.trim())
    assert sorted(os.listdir(tmp_path)) == [f"page-{i}" for i in range(pages)]
    with pytest.raises(bindings.nixlBackendError, match="'atomic' is about what is written, it goes with rw"):
        agent.register_memory([(0, size, 77, f"ro,atomic:{tmp_path}/page-0")], "FILE")


def test_slots_of_files_by_descriptor_with_prepared_lists(agent, tmp_path):
    """A pool of pages and a pool of slots in files, prepared once; each request picks some of both by index."""
    slots, files = 64, 4
    pool, filled = np.zeros(slots * PAGE, np.uint8), random_bytes(slots * PAGE)
    pool[:] = filled
    fds = [os.open(tmp_path / f"slots-{i}", os.O_RDWR | os.O_CREAT) for i in range(files)]
    pages = agent.register_memory([(address(pool) + i * PAGE, PAGE, 0, "") for i in range(slots)], "DRAM")
    places = [(i // files * PAGE, PAGE, fds[i % files], "") for i in range(slots)]
    registered = agent.register_memory(places, "FILE")
    local = agent.prep_xfer_dlist("", pages.trim())
    remote = agent.prep_xfer_dlist("storage", registered.trim())
    order = np.random.default_rng(3).permutation(slots)
    for operation in ("WRITE", "READ"):
        for start in range(0, slots, 16):
            some = list(order[start:start + 16])
            handle = agent.make_prepped_xfer(operation, local, some, remote, some[::-1])
            run(agent, handle)
            agent.release_xfer_handle(handle)
        if operation == "WRITE":
            pool[:] = 0
    np.testing.assert_array_equal(pool, filled)
    agent.release_dlist_handle(local)
    agent.release_dlist_handle(remote)
    agent.deregister_memory(registered)
    for fd in fds:
        assert os.fstat(fd).st_size == slots // files * PAGE
        os.close(fd)  # it is the program's: still open


def test_queries_by_name(agent, tmp_path):
    (tmp_path / "there").write_bytes(b"12345")
    names = [str(tmp_path / "there"), str(tmp_path / "missing"), "", str(tmp_path / "there")]
    answers = agent.query_memory([(0, 0, 0, name) for name in names], "POSIX", mem_type="FILE")
    assert [answer and answer["size"] for answer in answers] == ["5", None, None, "5"]
    status = os.stat(tmp_path / "there")
    assert answers[0]["mode"] == str(status.st_mode)
    assert abs(float(answers[0]["mtime"]) - status.st_mtime) < 1.001
    assert agent.query_memory(agent.get_reg_descs([(0, 0, 0, names[1])], "FILE"), "POSIX") == [None]
    with pytest.raises(ValueError):
        agent.query_memory([(0, 0, 0, names[0])], "UCX", "FILE")


def test_many_queries_at_once(agent, tmp_path):
    for i in range(0, 2000, 2):
        (tmp_path / str(i)).write_bytes(b"x" * (i % 7))
    answers = agent.query_memory([(0, 0, 0, str(tmp_path / str(i))) for i in range(2000)], "POSIX", "FILE")
    assert [answer and int(answer["size"]) for answer in answers] == [i % 7 if i % 2 == 0 else None
                                                                      for i in range(2000)]


def test_descriptors_come_back(agent, tmp_path):
    data = random_bytes(PAGE)
    descs = memory(agent, data)
    counts = []
    for turn in range(3):
        registered = agent.register_memory(
            [(0, PAGE, 100 + i, f"rw,create:{tmp_path}/{turn}-{i}") for i in range(40)], "FILE")
        for i in range(40):
            move(agent, "WRITE", descs, agent.get_xfer_descs([(0, PAGE, 100 + i)], "FILE"))
        agent.deregister_memory(registered)
        counts.append(open_descriptors())
    assert counts[0] == counts[1] == counts[2]
    del registered, agent
    gc.collect()


def test_an_error_names_the_file_and_what_was_moved(agent, tmp_path):
    path = tmp_path / "short"
    path.write_bytes(b"s" * 1000)
    back = np.zeros(PAGE, np.uint8)
    descs = memory(agent, back)
    agent.register_memory([(0, PAGE, 5, f"ro:{path}")], "FILE")
    handle = agent.initialize_xfer("READ", descs, agent.get_xfer_descs([(0, PAGE, 5)], "FILE"), "storage")
    with pytest.raises(bindings.nixlBackendError) as raised:
        run(agent, handle)
    assert str(path) in str(raised.value) and "1000" in str(raised.value)
    report = agent.get_xfer_report(handle)
    assert report.bytes_done == 1000 and report.backend == "POSIX"
    path.write_bytes(b"s" * PAGE)
    run(agent, handle)  # the handle is as good as before
    assert (back == ord("s")).all()


def test_waiting_for_files(agent, tmp_path):
    """Blocking, for any of several, and in asyncio."""
    size, count = 1 << 20, 8
    data = random_bytes(count * size)
    agent.register_memory([(*whole(data), "")], "DRAM")
    agent.register_memory([(0, 0, i, f"rw,create:{tmp_path}/{i}") for i in range(count)], "FILE")

    def request(operation, i):
        return agent.initialize_xfer(operation, agent.get_xfer_descs([(address(data) + i * size, size, 0)], "DRAM"),
                                     agent.get_xfer_descs([(0, size, i)], "FILE"), "storage")

    writes = [request("WRITE", i) for i in range(count)]
    for write in writes:
        agent.transfer(write)
    running = list(writes)
    while running:
        ended = agent.wait_any(running, 30)
        assert ended
        for write in ended:
            assert agent.check_xfer_state(write) == "DONE"
            running.remove(write)
    copy = data.copy()
    data[:] = 0
    reads = [request("READ", i) for i in range(count)]

    async def read_all():
        for read in reads:
            agent.transfer(read)
        return await asyncio.wait_for(asyncio.gather(*(agent.done(read) for read in reads)), 30)

    assert asyncio.run(read_all()) == ["DONE"] * count
    np.testing.assert_array_equal(data, copy)
    agent.transfer(reads[0])
    assert agent.wait(reads[0], 30) == "DONE"


def test_workers_of_one_agent(agent, tmp_path):
    """Each thread writes and reads files of its own; handles are left to the garbage collector."""
    workers, turns, size = 4, 20, 3 * PAGE + 5
    buffers = [random_bytes(size, seed) for seed in range(workers)]
    for buffer in buffers:
        agent.register_memory([(*whole(buffer), "")], "DRAM")
    errors = []

    def work(worker):
        try:
            buffer, expected = buffers[worker], buffers[worker].copy()
            for turn in range(turns):
                device = worker * turns + turn
                registered = agent.register_memory([(0, size, device, f"rw,create:{tmp_path}/{device}")], "FILE")
                descs = agent.get_xfer_descs([whole(buffer)], "DRAM")
                for operation in ("WRITE", "READ"):
                    handle = agent.initialize_xfer(operation, descs, registered.trim(), "storage")
                    if agent.transfer(handle) != "DONE":
                        eventually(lambda: agent.check_xfer_state(handle) == "DONE")
                    if operation == "WRITE":
                        buffer[:] = 0
                assert (buffer == expected).all()
                agent.deregister_memory(registered)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_memory_and_files_of_two_backends(plugins, tmp_path):
    """Memory registered with a network and a file backend: each request goes over the one that reaches both sides."""
    network = "UCX" if "UCX" in plugins else "LOOPBACK"
    agent = nixl.nixl_agent("both", nixl.nixl_agent_config(backends=[network]))
    agent.create_backend("POSIX")
    data, other = random_bytes(PAGE), np.zeros(PAGE, np.uint8)
    source, sink = memory(agent, data), memory(agent, other)
    registered = agent.register_memory([(0, PAGE, 1, f"rw,create:{tmp_path}/data")], "FILE", backends=["POSIX"])
    to_file = agent.initialize_xfer("WRITE", source, registered.trim(), "both")
    run(agent, to_file)
    assert agent.query_xfer_backend(to_file) == "POSIX"
    from_file = agent.initialize_xfer("READ", sink, registered.trim(), "both")
    run(agent, from_file)
    np.testing.assert_array_equal(other, data)
    within = agent.initialize_xfer("WRITE", source, sink, "both", backends=[network])
    run(agent, within)
    assert agent.query_xfer_backend(within) == network


def test_the_own_side_may_have_no_name(agent, tmp_path):
    data = random_bytes(PAGE)
    descs = memory(agent, data)
    registered = agent.register_memory([(0, PAGE, 1, f"rw,create:{tmp_path}/data")], "FILE")
    for name in ("", "storage", b"storage"):
        run(agent, agent.initialize_xfer("WRITE", descs, registered.trim(), name))
    assert (tmp_path / "data").read_bytes() == data.tobytes()
