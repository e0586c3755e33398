# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The programs in examples/python do what they say, and say what is wrong."""

import os
import pathlib
import pty
import re
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples" / "python"
LIMIT_S = 150
sys.path.insert(0, str(ROOT / "tools"))

import etcd_server  # noqa: E402  (needs the path above)
import two_processes  # noqa: E402


@pytest.fixture(autouse=True)
def needs_ucx(plugins):
    if "UCX" not in plugins:
        pytest.skip("there is no plugin UCX")


@pytest.fixture(params=["with torch", "without torch"])
def environment(request, tmp_path, monkeypatch):
    """Runs the test with PyTorch and without, which the examples must be able to do."""
    if request.param == "with torch":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    else:
        (tmp_path / "torch.py").write_text("raise ImportError('hidden by the test')\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def run(*command):
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=LIMIT_S)


def run_example(name, *arguments):
    return run(EXAMPLES / name, *arguments)


def run_both(name, *arguments):
    done = run(ROOT / "tools" / "two_processes.py", sys.executable, EXAMPLES / name, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_basic_two_peers(environment):
    output = run_both("basic_two_peers.py")
    assert "initiator: all 160 numbers arrived, over UCX" in output
    assert "target: the initiator has read the tensor" in output


def test_basic_two_peers_without_any_service(monkeypatch):
    port = two_processes.free_port()
    monkeypatch.setenv("NIXL_METADATA_STORE", f"rendezvous://127.0.0.1:{port}")
    monkeypatch.setenv("NIXL_RENDEZVOUS_LISTEN", f"127.0.0.1:{port}")
    output = run_both("basic_two_peers.py", "--by-name")
    assert "initiator: all 160 numbers arrived, over UCX" in output
    assert "target: the initiator has read the tensor" in output


def test_expanded_two_peers(environment):
    output = run_both("expanded_two_peers.py", "--backend", "UCX")
    assert output.count(": right\n") == 6
    assert "initiator: every step was right, over UCX" in output
    assert "target: done" in output and "initiator: done" in output


def assert_partial_metadata(*arguments):
    ports = two_processes.free_port(), two_processes.free_port()
    done = run_example("partial_md_example.py", "--init-port", ports[0], "--target-port", ports[1], *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "initiator: all 2097152 bytes arrived; target: both halves were read" in done.stdout
    assert "NIXL_ERR_NOT_FOUND" in done.stdout


def test_partial_metadata():
    assert_partial_metadata()


def test_partial_metadata_through_a_folder(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("NIXL_METADATA_STORE", f"file://{tmp_path}")
    assert_partial_metadata("--etcd")


def test_partial_metadata_through_etcd(monkeypatch):
    if etcd_server.why_not():
        pytest.skip(etcd_server.why_not())
    with etcd_server.EtcdServer() as server:
        monkeypatch.setenv("NIXL_ETCD_ENDPOINTS", server.endpoint)
        assert_partial_metadata("--etcd")


def test_kv_handover():
    done = run_example("kv_handover.py", "--layers", 2, "--blocks", 16)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every byte is right" in done.stdout


def test_kv_offload(plugins, tmp_path):
    if "POSIX" not in plugins:
        pytest.skip("there is no plugin POSIX")
    done = run_example("kv_offload.py", "--layers", 2, "--blocks", 16, "--directory", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every byte is right: 1,048,576 bytes in 2 files" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_kv_offload_says_what_is_wrong_with_its_directory(tmp_path):
    done = run_example("kv_offload.py", "--layers", 1, "--blocks", 1, "--directory", tmp_path / "missing")
    assert done.returncode == 1
    assert "No such file or directory" in done.stdout and "Traceback" not in done.stdout + done.stderr


def test_object_storage(bucket):
    done = run_example("object_storage.py", "--layers", 2, "--blocks", 16, "--prefix", "a cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "before     0 of the 2 objects" in done.stdout
    assert "after      2 of the 2 objects" in done.stdout
    assert "every byte is right: 1,048,576 bytes in 2 objects" in done.stdout
    sizes = {path.name: path.stat().st_size for path in (bucket / "a cache").iterdir()}
    assert sizes == {f"layer_00{layer}": 2 * 16 * 16384 for layer in range(2)}


def test_object_storage_says_what_is_wrong(bucket, monkeypatch):
    done = run_example("object_storage.py", "--layers", 1, "--blocks", 1, "--bucket", "missing-bucket")
    assert done.returncode == 1
    assert "failed     " in done.stdout and "missing-bucket" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    monkeypatch.delenv("AWS_DEFAULT_BUCKET")
    assert "say --bucket NAME" in run_example("object_storage.py").stdout


def run_on_a_terminal(*command):
    """What the program wrote to the terminal that it ran on."""
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"the system gives no terminal: {error}")
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    process = subprocess.Popen([sys.executable, *map(str, command)], stdin=subprocess.DEVNULL, stdout=theirs,
                               stderr=theirs, env=environment | {"TERM": "xterm"})
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 1 << 16):
            written += part
    except OSError:  # the last one has closed it
        pass
    os.close(ours)
    assert process.wait(LIMIT_S) == 0, written
    return written.decode()


def test_kv_handover_shows_how_far_it_is():
    """On a terminal a bar, bytes and rate; elsewhere a line at the end."""
    command = EXAMPLES / "kv_handover.py", "--layers", 8, "--blocks", 64
    bar = r"\r\x1b\[K  handover +(█*░*) +(\d+) %  ([\d.]+) [KMG]iB, ([\d.]+) GB/s"
    bars = re.findall(bar, run_on_a_terminal(*command))
    assert bars
    for drawn, percent, size, rate in bars:
        assert len(drawn) == 32 and 0 < int(percent) <= 100 and float(size) > 0 and float(rate) > 0
    plain = run(*command).stdout
    assert "█" not in plain and "\r" not in plain
    assert re.search(r"^  handover   16 MiB in [\d.]+ s, 8 notifications arrived$", plain, re.MULTILINE)


# ---- Files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def needs_posix(plugins):
    if "POSIX" not in plugins:
        pytest.skip("there is no plugin POSIX")


def test_gds_example_over_posix(needs_posix, tmp_path):
    done = run_example("nixl_gds_example.py", "--backend", "POSIX", tmp_path / "file")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ("WRITE: 65536 bytes, over POSIX\nREAD: 65536 bytes, over POSIX\nevery byte came back\n")
    assert done.stderr == ""
    assert (tmp_path / "file").read_bytes() == b"\xba" * 65536


def test_gds_example_says_what_is_missing(tmp_path):
    """Without the plugin, its library or a driver: one line, and no file was made."""
    done = run_example("nixl_gds_example.py", tmp_path / "file")
    if done.returncode == 0:
        assert "every byte came back" in done.stdout  # a machine with GPUDirect Storage
        return
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nixl_gds_example.py: NIXL_ERR_") and "GDS" in last
    assert "Traceback" not in done.stderr and not (tmp_path / "file").exists()


def test_query_mem_example(needs_posix, tmp_path):
    (tmp_path / "here").write_bytes(b"1234567")
    done = run_example("query_mem_example.py", tmp_path / "here", tmp_path / "not here")
    assert done.returncode == 0, done.stdout + done.stderr
    here, not_here = done.stdout.splitlines()
    assert here.startswith(f"{tmp_path}/here: 7 bytes, mode 100") and not_here == f"{tmp_path}/not here: not there"
    own = run_example("query_mem_example.py").stdout
    assert "small: 1,000 bytes" in own and "large: 123,456,789 bytes" in own and "missing: not there" in own


def test_remote_storage(needs_posix, tmp_path):
    output = run_both("remote_storage_example.py", "--mib", "20", "--directory", tmp_path, "--file", "kept")
    assert "every byte came back: 20,971,520 bytes" in output
    for operation in ("store", "load"):
        told = re.search(rf"^target: {operation}: 20 MiB in .* GB/s, .*: through host memory: (.*)$", output,
                         re.MULTILINE)
        assert told and "POSIX" in told[1] and told[1].count("20971520 bytes") == 2
    assert (tmp_path / "kept").stat().st_size == 20 << 20


@pytest.mark.parametrize("file, reason", [("missing", "No such file or directory"),
                                          ("../outside", "outside"), ("/etc/hostname", "/etc/hostname")])
def test_remote_storage_tells_the_client_what_the_server_cannot_do(needs_posix, tmp_path, file, reason):
    (tmp_path / "outside").write_bytes(b"x" * (1 << 20))
    (tmp_path / "root").mkdir()
    done = run(ROOT / "tools" / "two_processes.py", sys.executable, EXAMPLES / "remote_storage_example.py",
               "--only-load", "--mib", "1", "--directory", tmp_path / "root", "--file", file)
    assert done.returncode == 1
    assert f"remote_storage_example.py: the target could not load '{file}': NIXL_ERR_" in done.stderr
    assert reason in done.stderr and "Traceback" not in done.stderr


def test_remote_storage_tells_of_a_file_that_is_too_short(needs_posix, tmp_path):
    (tmp_path / "short").write_bytes(b"x" * (3 << 20))
    done = run(ROOT / "tools" / "two_processes.py", sys.executable, EXAMPLES / "remote_storage_example.py",
               "--only-load", "--mib", "30", "--directory", tmp_path, "--file", "short")
    assert done.returncode == 1
    assert "the target could not load 'short': NIXL_ERR_BACKEND" in done.stderr and "ends there" in done.stderr


@pytest.mark.parametrize("mode, missing", [
    ("target", "a visit of an initiator"),
    ("initiator", "an answer of the target"),
])
@pytest.mark.parametrize("name", ["basic_two_peers.py", "expanded_two_peers.py"])
def test_says_that_nobody_came(name, mode, missing):
    done = run_example(name, "--mode", mode, "--port", two_processes.free_port(), "--timeout", 0.5)
    assert done.returncode == 1
    assert f"{name}: {missing}" in done.stderr and "did not happen within 0.5 s" in done.stderr


@pytest.mark.parametrize("name, arguments", [
    ("basic_two_peers.py", ["--mode", "target", "--port"]),
    ("expanded_two_peers.py", ["--mode", "target", "--port"]),
    ("partial_md_example.py", ["--target-port"]),
])
def test_says_that_the_port_is_taken(name, arguments):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_example(name, *arguments, port)
    assert done.returncode == 1
    assert f"{name}: " in done.stderr and str(port) in done.stderr and "in use" in done.stderr


@pytest.mark.parametrize("name, arguments, sentence", [
    ("basic_two_peers.py", [], "required: --mode"),
    ("basic_two_peers.py", ["--mode", "both"], "invalid choice: 'both'"),
    ("basic_two_peers.py", ["--mode", "target", "--port", "70000"], "'70000' is no port; it must be 1 to 65535"),
    ("basic_two_peers.py", ["--mode", "target", "--port", "0"], "'0' is no port"),
    ("basic_two_peers.py", ["--mode", "initiator", "--ip", "1.2.3.4.5 "], "neither an IPv4 address nor the name"),
    ("basic_two_peers.py", ["--mode", "target", "--timeout", "-1"], "'-1' is no number of seconds above 0"),
    ("partial_md_example.py", ["--etcd"], "none of NIXL_ETCD_ENDPOINTS, NIXL_TCPSTORE_ENDPOINT, "),
    ("partial_md_example.py", ["--init-port", "7000", "--target-port", "7000"], "two agents need two ports"),
])
def test_says_which_argument_is_wrong(name, arguments, sentence):
    done = run_example(name, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_cuda_needs_torch(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('hidden by the test')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_example("basic_two_peers.py", "--mode", "target", "--use_cuda")
    assert done.returncode == 2
    assert "--use_cuda needs PyTorch with CUDA and a GPU; PyTorch is not installed" in done.stderr


def test_says_that_there_is_no_such_backend():
    done = run_example("expanded_two_peers.py", "--mode", "target", "--port", two_processes.free_port(),
                       "--backend", "TELEPATHY")
    assert done.returncode == 1
    assert "expanded_two_peers.py: NIXL_ERR_NOT_FOUND: " in done.stderr and "TELEPATHY" in done.stderr
