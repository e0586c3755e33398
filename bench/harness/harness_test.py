# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""`python3 -m pytest bench`: the harness itself, with workers that misbehave in place of real ones."""

import os
import sys
import threading
import time

import pytest

from harness import memory, pair, report, rows, usage

WORK = rows.Row("work", "work", "start", "us", limit_s=0.5, bar_ratio=2)
MORE = rows.Row("more", "more", "start", "us", limit_s=0.5)
FAST = rows.Row("fast", "fast", "start", "GB/s")
ABOUT = {
    "command": "bench/compare",
    "machine": {"cpu": "c", "cores": 2, "kernel": "k", "load_before": 0, "load_after": 0, "others_cores": [0, 0]},
    "versions": {"ours": {"version": "1", "ucx": None}, "peer": {"version": "2", "ucx": "3"}},
    "quick": False,
    "rounds": 2,
    "scale": 1,
}


def stand_in(tmp_path, body):
    """An interpreter that does `body` instead of running the worker; RESULTS is its result pipe's number."""
    path = tmp_path / "python"
    begin = f"#!{sys.executable}\nimport json, os, sys, time\nRESULTS = json.loads(sys.argv[3])['results']\n"
    path.write_text(begin + body + "\n")
    path.chmod(0o755)
    return str(path)


def finished(row, ours, peer):
    result = report.Result([row], **ABOUT)
    for label, values in (("ours", ours), ("peer", peer)):
        for value in values:
            result.add(label, row.name, {"value": value})
    return result.finish()


def test_a_hung_worker_is_killed_and_its_row_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(pair, "START_LIMIT_S", 0.5)
    pid_file = tmp_path / "pid"
    python = stand_in(tmp_path, f"open({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    figures = pair.run(python, "default", [WORK], quick=True, scale=1)
    assert figures["work"]["failure"].startswith("hung")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_worker_that_dies_fails_its_row_with_what_it_printed(tmp_path):
    python = stand_in(tmp_path, "print('no such library')\nsys.exit(3)")
    figures = pair.run(python, "default", [WORK], quick=True, scale=1)
    assert figures["work"]["failure"] == "a worker ended with 3: no such library"


def test_rows_after_a_failure_are_measured_in_a_new_worker(tmp_path):
    python = stand_in(
        tmp_path,
        "name = json.loads(sys.argv[3])['rows'][0]\n"
        "os.write(RESULTS, b'{\"failure\": \"broken\"}\\n' if name == 'work' else b'{\"value\": 7}\\n')",
    )
    figures = pair.run(python, "default", [WORK, MORE], quick=True, scale=1)
    assert figures == {"work": {"failure": "broken"}, "more": {"value": 7}}


def test_ratios_are_taken_round_by_round():
    row = finished(WORK, ours=[1.0, 2.0, 4.0], peer=[3.0, 4.0, 20.0])["rows"][0]
    assert row["ratio"]["peer"] == {"median": 3.0, "min": 2.0, "max": 5.0}
    assert row["bar_met"] is True


def test_a_round_that_failed_on_one_side_gives_no_ratio():
    result = report.Result([WORK], **ABOUT)
    for value in (1.0, 2.0):
        result.add("ours", "work", {"value": value})
    result.add("peer", "work", {"failure": "hung"})
    result.add("peer", "work", {"value": 3.0})
    row = result.finish()["rows"][0]
    assert row["ratio"]["peer"] == {"median": 1.5, "min": 1.5, "max": 1.5}
    assert row["failures"] == ["peer, round 1: hung"]


def test_more_bandwidth_is_a_better_ratio():
    row = finished(FAST, ours=[10.0], peer=[4.0])["rows"][0]
    assert row["ratio"]["peer"]["median"] == 2.5


def test_a_row_that_always_failed_is_shown_as_failed():
    result = report.Result([WORK], **ABOUT)
    result.add("ours", "work", {"failure": "hung"})
    result.add("peer", "work", {"value": 1.0})
    finished_result = result.finish()
    assert finished_result["rows"][0]["bar_met"] is None
    assert "| failed | 1 | - |" in report.markdown(finished_result)


@pytest.mark.parametrize(("others", "is_result"), [([0.1, 1.9, 0.1], True), ([0.1, 1.9, 1.9], False)])
def test_a_run_on_a_busy_machine_is_marked(others, is_result):
    result = finished(WORK, ours=[1.0], peer=[2.0])
    result["rounds"] = report.FEWEST_ROUNDS
    result["machine"] = result["machine"] | {"others_cores": others}
    assert ("Not a result" not in report.table(result)) == is_result


def test_every_wrong_word_is_found():
    buffer = memory.Buffer(1 << 16)
    buffer.fill(buffer.size)
    assert memory.wrong_words(buffer.words) == 0
    buffer.words[[0, 4097, -1]] ^= 1
    assert memory.wrong_words(buffer.words) == 3


def test_permuted_blocks_are_verified_with_what_lies_between():
    source, target = memory.Buffer(1 << 16), memory.Buffer(1 << 16)
    source.fill(source.size)
    local, remote = memory.permutations(16, 8)
    target.bytes.reshape(16, -1)[remote] = source.bytes.reshape(16, -1)[local]
    assert memory.wrong_blocks(target.words, 4096, 16, 8) == 0
    untouched = next(block for block in range(16) if block not in remote)
    target.words[[int(remote[0]) * 512, untouched * 512]] += 1
    assert memory.wrong_blocks(target.words, 4096, 16, 8) == 2


def test_a_spinning_thread_is_counted_and_a_sleeping_one_is_not():
    stop = threading.Event()
    sleeper = threading.Thread(target=stop.wait)
    sleeper.start()
    cores = usage.Usage(os.getpid())
    end = time.perf_counter() + 0.2
    while time.perf_counter() < end:
        pass
    cores.stop()
    stop.set()
    sleeper.join()
    assert cores.spinning_threads == 1
    assert 0 < cores.cpu_s < 0.3


def test_what_the_measurement_itself_uses_can_be_left_out():
    stop = threading.Event()
    spinner = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    spinner.start()
    both = usage.Usage(os.getpid())
    others = usage.Usage(os.getpid(), but_this_thread=True)
    end = time.perf_counter() + 0.2
    while time.perf_counter() < end:
        pass
    others.stop()
    both.stop()
    stop.set()
    spinner.join()
    assert 0 < others.cpu_s < both.cpu_s


def test_every_row_has_a_way_to_be_measured():
    from harness import measure

    for row in rows.ROWS:
        assert row.group == "start" or hasattr(measure.Rows, row.name)
