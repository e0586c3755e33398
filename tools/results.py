# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Counts single tests in what test runners wrote: ctest's and pytest's JUnit files."""

import re
import xml.etree.ElementTree as ElementTree

from steps import Outcome

_GTEST_RAN = re.compile(r"^\[={10}\] (\d+) tests? from .* ran\.", re.MULTILINE)
_GTEST_PASSED = re.compile(r"^\[  PASSED  \] (\d+) tests?\.", re.MULTILINE)
_GTEST_SKIPPED = re.compile(r"^\[  SKIPPED \] (\d+) tests?", re.MULTILINE)
_GTEST_SKIP = re.compile(r"^\S+:\d+: Skipped\n(.*)$", re.MULTILINE)
_PYTEST_END = re.compile(r"^=* ?((?:\d+ \w+(?:, )?)+) in [\d.]+s", re.MULTILINE)
_UNITTEST_END = re.compile(r"^Ran (\d+) tests? in [\d.]+s\n\n(?:OK|FAILED)(?: \((.*)\))?$", re.MULTILINE)
_GTEST_FAILED = re.compile(r"^\[  FAILED  \] ([^\s,]+).* \(\d+ ms\)$", re.MULTILINE)
_GTEST_WHY = re.compile(r"^\S+:\d+: Failure\n(?:.+\n?){1,8}", re.MULTILINE)
_FAILURE_LINES = 12
_PYTEST_SKIP = re.compile(r"^SKIPPED \[(\d+)\] (.*)$", re.MULTILINE)


def _program(name, status, text):
    """What one ctest entry's output says: (passed, failed, reasons of skips)."""
    if status == "disabled":
        return 0, 0, [f"{name}: disabled"]
    failed = status != "run"
    if _GTEST_RAN.search(text):
        ran, passed, skips = (sum(map(int, pattern.findall(text)))
                              for pattern in (_GTEST_RAN, _GTEST_PASSED, _GTEST_SKIPPED))
        failures = max(0, ran - passed - skips)
        return passed, max(failures, int(failed)), [f"{name}: {reason}" for reason in _GTEST_SKIP.findall(text)]
    if end := _PYTEST_END.search(text):
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", end[1])}
        reasons = [reason for number, reason in _PYTEST_SKIP.findall(text) for _ in range(int(number))]
        failures = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
        return counts.get("passed", 0), max(failures, int(failed)), reasons
    if end := _UNITTEST_END.search(text):
        counts = {word: int(number) for word, number in re.findall(r"(\w+)=(\d+)", end[2] or "")}
        failures = counts.get("failures", 0) + counts.get("errors", 0)
        skips = counts.get("skipped", 0)
        return int(end[1]) - failures - skips, max(failures, int(failed)), [f"{name}: skipped"] * skips
    return (0, 1, []) if failed else (1, 0, [])


def _failure(name, why):
    return "\n".join([name, *(f"    {line}" for line in why.strip().splitlines()[:_FAILURE_LINES])])


def _describe(name, text):
    """The failed cases of one ctest entry, each with its first failure where the runner says it."""
    described = []
    start = 0
    for case in _GTEST_FAILED.finditer(text):
        why = _GTEST_WHY.search(text, start, case.start())
        described.append(_failure(f"{name}: {case[1]}", why[0] if why else ""))
        start = case.end()
    if described:
        return described
    return [_failure(name, "\n".join(text.strip().splitlines()[-_FAILURE_LINES:]))]


def _finish(outcome):
    parts = [f"{outcome.passed} passed"]
    parts += [f"{outcome.failed} failed"] if outcome.failed else []
    parts += [f"{len(outcome.skipped)} skipped"] if outcome.skipped else []
    outcome.note = ", ".join(parts)
    return outcome


def from_ctest(path):
    outcome = Outcome()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        text = "".join(case.find("system-out").itertext()) if case.find("system-out") is not None else ""
        passed, failed, skipped = _program(case.get("name"), case.get("status"), text)
        outcome.passed += passed
        outcome.failed += failed
        outcome.skipped += skipped
        if failed:
            outcome.failures += _describe(case.get("name"), text)
    return _finish(outcome)


def from_pytest(path):
    outcome = Outcome()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        failure = case.find("failure") if case.find("failure") is not None else case.find("error")
        if failure is not None:
            outcome.failed += 1
            name = f"{case.get('classname')}.{case.get('name')}"
            outcome.failures.append(_failure(name, failure.get("message", "")))
        elif (skip := case.find("skipped")) is not None:
            outcome.skipped.append(skip.get("message", "no reason given"))
        else:
            outcome.passed += 1
    return _finish(outcome)
