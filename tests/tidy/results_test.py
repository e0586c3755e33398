# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""tools/results.py counts what the test runners really write (texts taken from them)."""

import pathlib
import sys
import tempfile
import unittest
from xml.sax.saxutils import escape

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

import results  # noqa: E402  (needs the path above)

GTEST = """Running main() from ./googletest/src/gtest_main.cc
/src/t.cpp:3: Skipped
no such device
{failure}[==========] 3 tests from 1 test suite ran. (6 ms total)
[  PASSED  ] {passed}.
[  SKIPPED ] 1 test.
"""
GTEST_FAILURE = "/src/t.cpp:4: Failure\nExpected equality of these values:\n[  FAILED  ] A.Fails (0 ms)\n"


def from_text(count, text):
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(text)
        file.flush()
        return count(file.name)


def ctest(status, output):
    return from_text(results.from_ctest, f'<testsuite><testcase name="t" status="{status}"><system-out>{escape(output)}'
                                         "</system-out></testcase></testsuite>")


class FromCtest(unittest.TestCase):
    def assert_counts(self, outcome, passed, failed, skipped=()):
        self.assertEqual((outcome.passed, outcome.failed, tuple(outcome.skipped)), (passed, failed, tuple(skipped)))

    def test_counts_the_cases_of_a_googletest_program(self):
        self.assert_counts(ctest("run", GTEST.format(failure="", passed="2 tests")), 2, 0, ["t: no such device"])

    def test_counts_the_failed_cases(self):
        text = GTEST.format(failure=GTEST_FAILURE, passed="1 test")
        self.assert_counts(ctest("fail", text), 1, 1, ["t: no such device"])

    def test_names_the_failed_cases_and_says_why(self):
        text = GTEST.format(failure=GTEST_FAILURE, passed="1 test")
        self.assertEqual(ctest("fail", text).failures,
                         ["t: A.Fails\n    /src/t.cpp:4: Failure\n    Expected equality of these values:"])

    def test_gives_the_last_lines_of_what_crashed(self):
        self.assertEqual(ctest("fail", "one\n" * 50 + "Segmentation fault\n").failures,
                         ["t\n" + "    one\n" * 11 + "    Segmentation fault"])

    def test_a_crash_is_one_failure(self):
        self.assert_counts(ctest("fail", ""), 0, 1)

    def test_a_crash_after_the_last_case_is_one_failure(self):
        self.assert_counts(ctest("fail", GTEST.format(failure="", passed="2 tests")), 2, 1, ["t: no such device"])

    def test_a_program_that_is_missing_is_a_failure(self):
        self.assert_counts(ctest("notrun", "Unable to find executable: t"), 0, 1)

    def test_a_program_without_a_known_output_is_one_test(self):
        self.assert_counts(ctest("run", "done\n"), 1, 0)

    def test_counts_the_cases_of_unittest(self):
        text = "...\n-----\nRan 12 tests in 0.183s\n\nFAILED (failures=1, errors=2, skipped=3)\n"
        self.assert_counts(ctest("fail", text), 6, 3, ["t: skipped"] * 3)

    def test_counts_the_cases_of_pytest(self):
        text = ("..s.\nSKIPPED [2] tests/a.py:4: no torch\n"
                "============ 3 passed, 2 skipped in 0.10s ============\n")
        self.assert_counts(ctest("run", text), 3, 0, ["tests/a.py:4: no torch"] * 2)


class FromPytest(unittest.TestCase):
    def test_counts_each_kind(self):
        outcome = from_text(results.from_pytest,
                            '<testsuites><testsuite><testcase name="a"/><testcase classname="m" name="b"><failure message="x"/>'
                            '</testcase><testcase name="c"><skipped message="no torch"/></testcase></testsuite>'
                            "</testsuites>")
        self.assertEqual((outcome.passed, outcome.failed, outcome.skipped), (1, 1, ["no torch"]))
        self.assertEqual(outcome.note, "1 passed, 1 failed, 1 skipped")
        self.assertEqual(outcome.failures, ["m.b\n    x"])


if __name__ == "__main__":
    unittest.main()
