# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Every promised name, signature and default exists."""

import ast
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import nixl
import nixl._api as api
import nixl._bindings as bindings
import support

GOLDEN = ast.parse((pathlib.Path(__file__).parent / "golden" / "api.pyi").read_text())


def _golden_functions():
    for node in GOLDEN.body:
        if isinstance(node, ast.ClassDef):
            for function in node.body:
                if isinstance(function, ast.FunctionDef):
                    yield node.name, function


def _golden_parameters(function):
    arguments = function.args
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + arguments.defaults
    for argument, default in zip(arguments.args, defaults, strict=True):
        yield argument.arg, "positional", default and ast.literal_eval(default)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield argument.arg, "keyword", default and ast.literal_eval(default)


def _actual_parameters(function):
    for parameter in inspect.signature(function).parameters.values():
        kind = "keyword" if parameter.kind is parameter.KEYWORD_ONLY else "positional"
        yield parameter.name, kind, None if parameter.default is parameter.empty else parameter.default


@pytest.mark.parametrize(
    "owner, function", [pytest.param(*case, id=f"{case[0]}.{case[1].name}") for case in _golden_functions()]
)
def test_signature_is_as_promised(owner, function):
    actual = getattr(getattr(api, owner), function.name)
    assert list(_actual_parameters(actual)) == list(_golden_parameters(function))


def test_no_public_method_is_missing_from_the_golden_file():
    promised = {(owner, function.name) for owner, function in _golden_functions()}
    actual = {
        (cls.__name__, name)
        for cls in (api.nixl_agent, api.nixl_agent_config, api.nixl_xfer_handle, api.nixl_prepped_dlist_handle)
        for name, value in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }
    assert actual <= promised


@pytest.mark.parametrize("cls", [api.nixl_agent, api.nixl_agent_config])
def test_public_methods_are_documented(cls):
    for name, function in inspect.getmembers(cls, inspect.isfunction):
        assert name.startswith("_") or function.__doc__, name


@pytest.mark.parametrize("name", ["nixlBind", "logger", "np", "pickle", "DEFAULT_COMM_PORT", "nixl_backend_handle"])
def test_api_exposes_what_programs_take_from_it(name):
    assert getattr(api, name) is not None


def test_package_lists_the_promised_names():
    assert sorted(nixl.__all__) == [
        "DEFAULT_COMM_PORT",
        "nixl_agent",
        "nixl_agent_config",
        "nixl_backend_handle",
        "nixl_prepped_dlist_handle",
        "nixl_thread_sync_t",
        "nixl_xfer_handle",
    ]
    assert api.nixlBind is bindings
    assert nixl.nixl_backend_handle is int
    assert nixl.DEFAULT_COMM_PORT == bindings.DEFAULT_COMM_PORT == 8888


@pytest.mark.parametrize("name", ["get_logger", "DRAM_SEG", "nixlBackendError", "malloc_passthru", "nixlXferDList"])
def test_package_reexports_its_submodules_names(name):
    assert getattr(nixl, name) is not None


def test_package_attributes_are_its_own_submodules():
    import nixl._utils
    import nixl.logging

    assert nixl.logging.get_logger is nixl.get_logger
    assert nixl._utils.malloc_passthru is nixl.malloc_passthru
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        assert nixl.nonsense
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        assert api.nonsense


def test_bindings_constants():
    assert bindings.NIXL_INIT_AGENT == ""
    assert bindings.HAVE_UCX_GPU_DEVICE_API is False


def test_importing_nixl_imports_neither_numpy_nor_torch():
    code = "import sys, nixl; print([name for name in ('numpy', 'torch') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_config_keeps_its_arguments_under_the_old_names():
    conf = api.nixl_agent_config(
        False, True, 4711, True, 3, ["LOOPBACK"], api.nixl_thread_sync_t.NIXL_THREAD_SYNC_RW
    )
    assert (conf.enable_pthread, conf.enable_listen, conf.port, conf.capture_telemetry) == (False, True, 4711, True)
    assert (conf.num_threads, conf.backends) == (3, ["LOOPBACK"])
    assert conf.sync_mode is api.nixl_thread_sync_t.NIXL_THREAD_SYNC_RW


def test_config_defaults():
    conf = api.nixl_agent_config()
    assert (conf.enable_pthread, conf.enable_listen, conf.port, conf.capture_telemetry) == (True, False, 8888, False)
    assert (conf.num_threads, conf.backends, conf.sync_mode) == (0, ["UCX"], None)
    conf.backends.append("POSIX")
    assert api.nixl_agent_config().backends == ["UCX"]


def test_config_refuses_a_foreign_sync_mode():
    with pytest.raises(TypeError, match=r"sync_mode must be a nixl_thread_sync_t \(got 'str'\)"):
        api.nixl_agent_config(sync_mode="STRICT")


def test_agent_has_the_promised_attributes(agent):
    assert agent.name == "alone"
    assert agent.notifs == {}
    assert isinstance(agent.agent, bindings.nixlAgent)
    assert list(agent.backends) == ["LOOPBACK"] and isinstance(agent.backends["LOOPBACK"], int)
    assert agent._leaked_xfer_handles == []
    assert "LOOPBACK" in agent.plugin_list and agent.get_plugin_list() == agent.plugin_list
    for attribute in ("backend_mems", "backend_options", "plugin_b_options", "plugin_mem_types"):
        assert isinstance(getattr(agent, attribute), dict)
    assert agent.nixl_mems == {
        "DRAM": bindings.DRAM_SEG,
        "VRAM": bindings.VRAM_SEG,
        "FILE": bindings.FILE_SEG,
        "BLOCK": bindings.BLK_SEG,
        "OBJ": bindings.OBJ_SEG,
        "cpu": bindings.DRAM_SEG,
        "cuda": bindings.VRAM_SEG,
    }
    assert agent.nixl_ops == {"WRITE": bindings.NIXL_WRITE, "READ": bindings.NIXL_READ}


def test_agent_refuses_an_empty_name():
    with pytest.raises(ValueError):
        api.nixl_agent("", support.config(""))


@pytest.mark.parametrize("name", ["text", b"bytes", bytearray(b"bytearray")])
def test_agent_name_may_be_text_or_bytes(name):
    assert api.nixl_agent(name, support.config("")).name == name


def test_missing_backend_is_skipped_with_a_warning(log):
    agent = api.nixl_agent("a", api.nixl_agent_config(backends=["NO_SUCH_BACKEND", "LOOPBACK"]))
    assert list(agent.backends) == ["LOOPBACK"]
    assert any(r.levelname == "WARNING" and "NO_SUCH_BACKEND" in r.getMessage() for r in log.records)


@pytest.mark.parametrize("made, why", [(False, "does not exist"), (True, "holds no plugins")])
def test_agent_without_any_plugin_is_a_runtime_error_that_names_the_folder(tmp_path, made, why):
    folder = tmp_path / "plugins"
    if made:
        folder.mkdir()
    program = """
import nixl
try:
    nixl.nixl_agent("a")
except RuntimeError as error:
    print(error)
"""
    environment = {**os.environ, "NIXL_PLUGIN_DIR": str(folder)}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert said.stdout.startswith("No plugins available for NIXL, cannot start transfers! "), said
    assert f"'{folder}', which {why}; NIXL_PLUGIN_DIR" in said.stdout


class _Recorder:
    """Stands in for the bindings agent and writes down the backends that are created."""

    created = None

    def __init__(self, name, config):
        _Recorder.created = {}
        _Recorder.config = config

    def getAvailPlugins(self):
        return ["UCX", "OBJ", "LIBFABRIC", "GDS_MT", "UCCL", "POSIX", "OURS"]

    def getPluginParams(self, name):
        return {"of": name}, ["DRAM_SEG"]

    def getPluginOption(self, name, role):
        assert role == "threads"
        return {"OURS": "lanes"}.get(name, "")  # the others were written for NIXL 1.4

    def createBackend(self, name, params):
        _Recorder.created[name] = params
        return len(_Recorder.created)


def test_num_threads_becomes_each_backends_own_option(monkeypatch):
    monkeypatch.setattr(bindings, "nixlAgent", _Recorder)
    plugins = _Recorder.getAvailPlugins(None)
    api.nixl_agent("a", api.nixl_agent_config(num_threads=5, backends=plugins))
    assert _Recorder.created == {
        "UCX": {"num_threads": "5"},
        "OBJ": {"num_threads": "5"},
        "LIBFABRIC": {"num_threads": "5"},
        "GDS_MT": {"thread_count": "5"},
        "UCCL": {"num_cpus": "5"},
        "POSIX": {},
        "OURS": {"lanes": "5"},
    }
    api.nixl_agent("a", api.nixl_agent_config(num_threads=0, backends=["UCX"]))
    assert _Recorder.created == {"UCX": {}}


def test_instantiate_all_creates_every_plugin_without_a_configuration_only(monkeypatch, log):
    monkeypatch.setattr(bindings, "nixlAgent", _Recorder)
    api.nixl_agent("a", instantiate_all=True)
    assert sorted(_Recorder.created) == sorted(_Recorder.getAvailPlugins(None))
    assert _Recorder.created["POSIX"] == {"of": "POSIX"}
    api.nixl_agent("a", api.nixl_agent_config(backends=["UCX"]), True)
    assert list(_Recorder.created) == ["UCX"]
    assert any("instantiate_all" in record.getMessage() for record in log.records)


@pytest.mark.parametrize(
    "options, mode",
    [
        ({}, bindings.NIXL_THREAD_SYNC_NONE),
        ({"enable_listen_thread": True}, bindings.NIXL_THREAD_SYNC_STRICT),
        ({"sync_mode": api.nixl_thread_sync_t.NIXL_THREAD_SYNC_RW}, bindings.NIXL_THREAD_SYNC_RW),
    ],
)
def test_agent_passes_the_configuration_on(monkeypatch, options, mode):
    monkeypatch.setattr(bindings, "nixlAgent", _Recorder)
    api.nixl_agent("a", api.nixl_agent_config(listen_port=0, capture_telemetry=True, backends=[], **options))
    config = _Recorder.config
    assert config.syncMode == mode
    assert config.useListenThread is options.get("enable_listen_thread", False)
    assert (config.useProgThread, config.listenPort, config.captureTelemetry) == (True, 0, True)
    assert (config.pthrDelay, config.lthrDelay) == (0, 100000)


def test_unknown_plugin_and_backend_give_a_warning_and_nothing(agent, log):
    assert agent.get_plugin_mem_types("NONE") == [] and agent.get_plugin_params("NONE") == {}
    assert agent.get_backend_mem_types("NONE") == [] and agent.get_backend_params("NONE") == {}
    assert [record.levelname for record in log.records] == ["WARNING"] * 4


def test_plugin_and_backend_facts(agent):
    assert "DRAM_SEG" in agent.get_plugin_mem_types("LOOPBACK")
    assert isinstance(agent.get_plugin_params("LOOPBACK"), dict)
    assert "DRAM_SEG" in agent.get_backend_mem_types("LOOPBACK")
    assert isinstance(agent.get_backend_params("LOOPBACK"), dict)
    assert agent.plugin_mem_types["LOOPBACK"] is agent.get_plugin_mem_types("LOOPBACK")


def test_bindings_config_takes_the_old_positional_arguments():
    import datetime

    config = bindings.nixlAgentConfig(True, True, 99, bindings.NIXL_THREAD_SYNC_STRICT, 7, 5, 6, True)
    assert (config.useProgThread, config.useListenThread, config.listenPort) == (True, True, 99)
    assert config.syncMode == bindings.NIXL_THREAD_SYNC_STRICT
    assert (config.pthrDelay, config.lthrDelay, config.captureTelemetry) == (5, 6, True)
    default = bindings.nixlAgentConfig()
    assert (default.useProgThread, default.useListenThread, default.listenPort) == (False, False, 8888)
    assert (default.pthrDelay, default.lthrDelay, default.captureTelemetry) == (0, 100000, False)
    assert default.etcdWatchTimeout == datetime.timedelta(seconds=5)
    default.etcdWatchTimeout = datetime.timedelta(milliseconds=3)
    assert default.etcdWatchTimeout == datetime.timedelta(microseconds=3000)
    for count in range(1, 9):
        bindings.nixlAgentConfig(*(True, False, 1, bindings.NIXL_THREAD_SYNC_RW, 1, 0, 0, False)[:count])


def test_bindings_take_ints_for_bools():
    config = bindings.nixlAgentConfig(1)
    assert config.useProgThread is True
    config.useListenThread = 1
    config.captureTelemetry = 0
    assert (config.useListenThread, config.captureTelemetry) == (True, False)
    with pytest.raises(TypeError):
        config.captureTelemetry = "yes"
    with pytest.raises(TypeError):
        config.listenPort = 65536


def test_backend_parameters_must_be_text(agent):
    with pytest.raises(TypeError):
        agent.create_backend("LOOPBACK", {"num_threads": 4})
    assert agent.agent.getPluginOption("UCX", "threads") == "num_threads"
    assert agent.agent.getPluginOption("LOOPBACK", "threads") == ""
    assert agent.agent.getPluginOption("UCX", "no such role") == ""
    with pytest.raises(bindings.nixlNotFoundError, match="NO_SUCH_BACKEND"):
        agent.agent.getPluginOption("NO_SUCH_BACKEND", "threads")
    with pytest.raises(bindings.nixlInvalidParamError):
        agent.create_backend("LOOPBACK")
    with pytest.raises(bindings.nixlNotFoundError):
        agent.create_backend("NO_SUCH_BACKEND")


def test_bindings_agent_can_be_swapped(agent):
    other = bindings.nixlAgent("other", bindings.nixlAgentConfig(True, False, 0))
    agent.agent, agent.plugin_list = other, ["LOOPBACK"]
    agent.backends.clear()
    agent.create_backend("LOOPBACK")
    assert b"other" in agent.get_agent_metadata()
