# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""With the flags of the preset clang, the macros of base/mutex.h refuse what they are there to refuse, and no more."""

import json
import pathlib
import re
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
[PRESET] = [preset["cacheVariables"] for preset in json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]
            if preset["name"] == "clang"]
COMMAND = [PRESET["CMAKE_CXX_COMPILER"], *PRESET["CMAKE_CXX_FLAGS"].split(), "-std=c++20"]

BOX = """
class Box {
public:
    int
    value() {
        %s
    }

private:
    int
    valueLocked() NX_REQUIRES(mutex_) {
        return value_;
    }
    void
    change() NX_EXCLUDES(mutex_) {
        const nx::MutexLock lock(mutex_);
        ++value_;
        changed_.notifyAll();
    }

    nx::Mutex mutex_;
    nx::Mutex later_ NX_ACQUIRED_AFTER(mutex_);
    nx::CondVar changed_;
    int value_ NX_GUARDED_BY(mutex_) = 0;
};
"""


class ThreadSafety(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.header = str(pathlib.Path(folder.name) / "mutex.h.pch")  # read once, not by every test
        subprocess.run([*COMMAND, "-x", "c++-header", str(ROOT / "src/base/mutex.h"), "-o", cls.header], check=True)

    def errors(self, body):
        """The sentences of the errors when `body` is what Box::value() does."""
        ran = subprocess.run([*COMMAND, "-fsyntax-only", "-include-pch", self.header, "-x", "c++", "-"],
                             input=BOX % body, capture_output=True, text=True, check=False)
        found = re.findall(r"error: (.*)", ran.stderr)
        self.assertEqual(bool(found), ran.returncode != 0, ran.stderr)
        return found

    def assert_refused(self, body, *sentences):
        found = self.errors(body)
        self.assertEqual(len(found), len(sentences), found)
        for error, sentence in zip(found, sentences):
            self.assertIn(sentence, error)

    def assert_accepted(self, body):
        self.assertEqual(self.errors(body), [])

    def test_a_member_with_its_mutex(self):
        self.assert_accepted("const nx::MutexLock lock(mutex_); return value_;")

    def test_a_member_without_its_mutex(self):
        self.assert_refused("return value_;", "reading variable 'value_' requires holding mutex 'mutex_'")

    def test_a_member_after_its_mutex_was_given_back(self):
        self.assert_refused("{ const nx::MutexLock lock(mutex_); } value_ = 1; return 1;",
                            "writing variable 'value_' requires holding mutex 'mutex_'")

    def test_a_member_with_the_mutex_of_another_object(self):
        self.assert_refused("Box other; const nx::MutexLock lock(other.mutex_); return value_;",
                            "reading variable 'value_' requires holding mutex 'mutex_'")

    def test_a_member_with_a_lock_of_the_standard_library(self):
        self.assert_refused("std::lock_guard lock(mutex_); return value_;",
                            "reading variable 'value_' requires holding mutex 'mutex_'")

    def test_a_locked_function_with_and_without_the_mutex(self):
        self.assert_accepted("const nx::MutexLock lock(mutex_); return valueLocked();")
        self.assert_refused("return valueLocked();", "calling function 'valueLocked' requires holding mutex 'mutex_'")

    def test_a_function_that_takes_the_mutex_itself(self):
        self.assert_accepted("change(); return 1;")
        self.assert_refused("const nx::MutexLock lock(mutex_); change(); return 1;",
                            "cannot call function 'change' while mutex 'mutex_' is held")

    def test_a_mutex_taken_twice(self):
        self.assert_refused("const nx::MutexLock lock(mutex_); const nx::MutexLock again(mutex_); return value_;",
                            "acquiring mutex 'mutex_' that is already held")

    def test_two_in_their_order(self):
        self.assert_accepted("const nx::MutexLock lock(mutex_); const nx::MutexLock later(later_); return value_;")
        self.assert_refused("const nx::MutexLock later(later_); const nx::MutexLock lock(mutex_); return value_;",
                            "mutex 'mutex_' must be acquired before 'later_'")

    def test_a_mutex_that_is_not_given_back(self):
        self.assert_refused("mutex_.lock(); return value_;", "mutex 'mutex_' is still held at the end of function")

    def test_a_mutex_that_is_tried_for(self):
        self.assert_accepted("if (!mutex_.try_lock()) return 0;"
                             "const nx::MutexLock lock(mutex_, std::adopt_lock); return value_;")
        self.assert_refused("const nx::MutexLock lock(mutex_, std::adopt_lock); return 1;",
                            "requires holding mutex 'mutex_'")

    def test_a_wait(self):
        self.assert_accepted("const nx::MutexLock lock(mutex_);"
                             "while (value_ == 0) changed_.wait(mutex_); return value_;")
        self.assert_refused("changed_.wait(mutex_); return 1;",
                            "calling function 'wait' requires holding mutex 'mutex_'")


if __name__ == "__main__":
    unittest.main()
