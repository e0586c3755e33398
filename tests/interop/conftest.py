# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Runs every test for each UCX of ours, each transport and each side as the initiator, and prints what came out.

A test may narrow that: @pytest.mark.transports("tcp", ...).
"""

import collections

import pytest
from fleet import TRANSPORTS, UCX, Fleet

FLEETS = [Fleet(ucx, transport) for ucx in UCX for transport in TRANSPORTS]
RESULTS = collections.defaultdict(dict)  # test -> {(fleet, initiator): outcome, the worst of several}
WORDS = {"passed": "ok", "skipped": "-", "failed": "WRONG"}  # from best to worst


def pytest_configure(config):
    config.addinivalue_line("markers", "transports(*names): the transports with which the test runs")


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("transports")
    fleets = [fleet for fleet in FLEETS if not marker or fleet.transport.name in marker.args]
    metafunc.parametrize("fleet", fleets, indirect=True, scope="session",
                         ids=[f"{fleet.ucx.name}-{fleet.transport.name.replace(' ', '_')}" for fleet in fleets])
    if "initiator" in metafunc.fixturenames:
        metafunc.parametrize("initiator", ["ours", "theirs"], scope="session")


@pytest.fixture(scope="session")
def fleet(request):
    yield request.param
    request.param.end()


@pytest.fixture
def pair(fleet, initiator, quiet):
    """(initiator, target)"""
    return fleet.pair(initiator)


@pytest.fixture
def pair_both_ways(fleet, initiator, quiet):
    """(initiator, target), which also reach each other the other way round."""
    return fleet.pair_both_ways(initiator)


@pytest.fixture
def quiet(fleet):
    yield
    if "ours" in fleet.parties:
        assert fleet.parties["ours"].problems() == [], "a run without failures logs nothing at WARN or above"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call" or not report.passed:
        where = item.callspec.params["fleet"], item.callspec.params.get("initiator", "ours")
        cells = RESULTS[item.originalname]
        cells[where] = max(cells.get(where, "passed"), report.outcome, key=list(WORDS).index)
        if report.failed:  # whatever state the processes are in, the next test starts with new ones
            where[0].end()
    return report


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("interoperability with the published wheel")
    for ucx in UCX:
        fleets = [fleet for fleet in FLEETS if fleet.ucx is ucx]
        versions = next((fleet.versions for fleet in fleets if fleet.versions), f"{ucx.name} UCX: not run")
        columns = [(fleet, initiator) for fleet in fleets for initiator in ("ours", "theirs")]
        terminalreporter.write_line(f"\n{versions}")
        terminalreporter.write_line(f"{'initiator':36}" + "".join(f"{fleet.transport.name:>16}" for fleet in fleets))
        terminalreporter.write_line(f"{'':36}" + "".join(f"{initiator:>8}" for _, initiator in columns))
        for test, cells in RESULTS.items():
            name = test.removeprefix("test_").replace("_", " ")
            words = [WORDS.get(cells.get(column), "") for column in columns]
            if any(words):
                terminalreporter.write_line(f"{name:36}" + "".join(f"{word:>8}" for word in words))
    terminalreporter.write_line("\nok: every byte was right; -: these UCX versions cannot talk (reasons above); "
                                "empty: does not depend on the transport, tested with another")
