# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Every rule of tools/tidy finds the bad snippet, says what to write instead, and leaves the good one alone."""

import importlib.machinery
import importlib.util
import pathlib
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "tidy"
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("tidy", str(TOOL))
tidy = importlib.util.module_from_spec(importlib.util.spec_from_loader("tidy", loader))
sys.modules["tidy"] = tidy
loader.exec_module(tidy)

SPDX = "// SPDX-FileCopyrightText: The nixl authors\n// SPDX-License-Identifier: Apache-2.0\n"
BACKGROUND = {
    "include/nixl_types.h": SPDX + "#pragma once\nclass nixlAgentData;\nusing nixl_backend_t = int;\n",
    "include/nixl.h": SPDX + "#pragma once\nclass nixlAgent {};\n",
    "include/nixlx/engine.h": SPDX + "#pragma once\nnamespace nixlx { class Engine; }\n",
    "src/base/error.h": SPDX + "#pragma once\n",
    "src/wire/reader.h": SPDX + "#pragma once\n",
    "src/memory/plan.h": SPDX + "#pragma once\n",
    "src/agent/agent.h": SPDX + "#pragma once\n",
    "plugins/kit/request.h": SPDX + "#pragma once\n",
    "plugins/backends/ucx/CMakeLists.txt": "nx_add_backend(UCX)\n",
    "plugins/backends/ucx/engine.h": SPDX + "#pragma once\n",
    "plugins/backends/loopback/CMakeLists.txt": "nx_add_backend(LOOPBACK)\n",
    "plugins/stores/file/CMakeLists.txt": "\n",
    "tests/support/eventually.h": SPDX + "#pragma once\n",
}


def findings(files):
    """(path, line, rule) of each finding in a tree made of BACKGROUND and `files`; C++ gets its licence lines."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in (BACKGROUND | files).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return [(found.path, found.line, found.rule)
                for found in tidy.run_checks(tidy.Tree(root, BACKGROUND.keys() | files.keys()))]


class TidyTest(unittest.TestCase):
    def assert_rejected(self, rule, path, body, line=3):
        self.assertEqual(findings({path: SPDX + body}), [(path, line, rule)])

    def assert_accepted(self, path, body):
        self.assertEqual(findings({path: SPDX + body}), [])


class Background(TidyTest):
    def test_is_clean(self):
        self.assertEqual(findings({}), [])

    def test_the_tree_itself_is_readable(self):
        root = TOOL.parent.parent
        tree = tidy.Tree(root, tidy.list_files(root))
        self.assertIn("include/nixl.h", tree.paths)
        self.assertIn("tools/tidy", tree.paths)


class IncludeEdges(TidyTest):
    def test_wire_may_not_see_memory(self):
        self.assert_rejected("include-edge", "src/wire/a.cpp", '#include "memory/plan.h"\n')

    def test_memory_may_see_wire(self):
        self.assert_accepted("src/memory/a.cpp", '#include "wire/reader.h"\n')

    def test_agent_may_see_all_of_src(self):
        self.assert_accepted("src/agent/a.cpp", '#include "memory/plan.h"\n#include "base/error.h"\n')

    def test_base_may_not_see_the_agent_header(self):
        self.assert_rejected("include-edge", "src/base/a.cpp", '#include "nixl.h"\n')

    def test_base_may_see_the_types(self):
        self.assert_accepted("src/base/a.cpp", '#include "nixl_types.h"\n#include "nixlx/engine.h"\n')

    def test_a_plugin_may_not_see_the_agent(self):
        self.assert_rejected("include-edge", "plugins/backends/shm/a.cpp", '#include "agent/agent.h"\n')

    def test_a_plugin_may_not_see_its_sibling(self):
        self.assert_rejected("include-edge", "plugins/backends/shm/a.cpp", '#include "ucx/engine.h"\n')

    def test_a_folder_of_the_kit_is_the_kit(self):
        self.assert_accepted("plugins/kit/peer/session.h", SPDX + '#pragma once\n#include "kit/request.h"\n')

    def test_a_plugin_may_see_itself_the_kit_and_wire(self):
        self.assert_accepted("plugins/backends/ucx/a.cpp",
                             '#include "ucx/engine.h"\n#include "kit/request.h"\n#include "wire/reader.h"\n')

    def test_a_public_header_may_not_see_src(self):
        self.assert_rejected("include-edge", "include/nixl_more.h", '#pragma once\n#include "base/error.h"\n', line=4)

    def test_an_example_may_not_see_src(self):
        self.assert_rejected("include-edge", "examples/cpp/a.cpp", '#include "base/error.h"\n')

    def test_an_example_may_see_the_public_headers(self):
        self.assert_accepted("examples/cpp/a.cpp", '#include "nixl.h"\n')

    def test_the_core_may_not_see_a_vendor_header(self):
        self.assert_rejected("include-edge", "src/wire/a.cpp", "#include <curl/curl.h>\n")

    def test_the_core_may_see_the_kernel(self):
        self.assert_accepted("src/wire/a.cpp", "#include <sys/stat.h>\n#include <vector>\n")

    def test_a_test_may_see_the_test_helpers(self):
        self.assert_accepted("src/wire/a_test.cpp", '#include <gtest/gtest.h>\n#include "support/eventually.h"\n')

    def test_code_may_not_see_the_test_helpers(self):
        self.assert_rejected("include-edge", "src/wire/a.cpp", '#include "support/eventually.h"\n')

    def test_an_include_in_a_comment_does_not_count(self):
        self.assert_accepted("src/wire/a.cpp", '// #include "memory/plan.h"\n')


class Names(TidyTest):
    def test_an_internal_name_in_a_public_header(self):
        self.assert_rejected("public-name", "include/nixl_more.h", "#pragma once\nclass Agent {};\n", line=4)

    def test_an_alias_with_an_internal_name_in_a_public_header(self):
        self.assert_rejected("public-name", "include/nixl_more.h", "#pragma once\nusing Names = int;\n", line=4)

    def test_public_names_in_a_public_header(self):
        self.assert_accepted("include/nixl_more.h", "#pragma once\ntemplate<class T> class nixlMore {};\n"
                             "enum nixl_more_t { A };\nusing nixl_list_t = int;\n")

    def test_our_own_namespace_in_a_public_header(self):
        self.assert_accepted("include/nixl_more.h", "#pragma once\nnamespace nixlx {\nenum class Level { kLow };\n}\n")

    def test_a_nested_type_in_a_public_header(self):
        self.assert_accepted("include/nixl_more.h", "#pragma once\nclass nixlMore {\n    struct Part {};\n};\n")

    def test_our_own_folder_of_public_headers(self):
        self.assert_accepted("include/nixlx/more.h", "#pragma once\nnamespace nixlx {\nclass More {};\n}\n")

    def test_a_new_public_looking_type_in_the_core(self):
        self.assert_rejected("internal-name", "src/agent/a.cpp", "class nixlSecret : public Base {\n};\n")

    def test_a_new_public_looking_type_in_a_plugin(self):
        self.assert_rejected("internal-name", "plugins/backends/ucx/a.h", "#pragma once\nstruct nixl_ucx_t {\n};\n",
                             line=4)

    def test_the_body_of_a_promised_type_may_be_in_the_core(self):
        self.assert_accepted("src/agent/a.cpp", "class nixlAgentData {\n};\n")

    def test_the_finding_names_the_replacement(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "src" / "agent" / "a.cpp"
            path.parent.mkdir(parents=True)
            path.write_text(SPDX + "struct nixlUcxSecret_t {\n};\n")
            [found] = tidy.run_checks(tidy.Tree(folder, ["src/agent/a.cpp"]))
            self.assertIn("name it UcxSecret,", str(found))
            self.assertTrue(str(found).startswith("src/agent/a.cpp:3: internal-name: "))


class Sleeps(TidyTest):
    def test_in_a_cpp_test(self):
        self.assert_rejected("sleep-in-test", "tests/system/a.cpp", "void f() { std::this_thread::sleep_for(1s); }\n")

    def test_in_a_test_beside_the_code(self):
        self.assert_rejected("sleep-in-test", "src/wire/a_test.cpp", "void f() { usleep(10); }\n")

    def test_in_a_python_test(self):
        self.assertEqual(findings({"tests/python/a_test.py": SPDX.replace("//", "#") + "time.sleep(1)\n"}),
                         [("tests/python/a_test.py", 3, "sleep-in-test")])

    def test_in_the_helper_that_polls(self):
        self.assert_accepted("tests/support/a.h", "#pragma once\nvoid f() { usleep(10); }\n")

    def test_in_a_comment_or_a_string(self):
        self.assert_accepted("tests/system/a.cpp", '// sleep(1)\nauto text = "sleep(1)";\n')


class PluginNames(TidyTest):
    def test_in_a_string(self):
        self.assert_rejected("plugin-name", "src/agent/a.cpp", 'auto name = "UCX";\n')

    def test_in_an_identifier_in_small_letters(self):
        self.assert_rejected("plugin-name", "src/agent/a.cpp", "int ucx = 1;\n")

    def test_in_a_build_file(self):
        self.assertEqual(findings({"src/agent/CMakeLists.txt": "add_library(LOOPBACK)\n"}),
                         [("src/agent/CMakeLists.txt", 1, "plugin-name")])

    def test_an_ordinary_word_counts_only_in_capitals(self):
        self.assert_accepted("src/agent/a.cpp", 'auto text = "a file by loopback";\n')

    def test_in_a_comment(self):
        self.assert_accepted("src/agent/a.cpp", "// for example UCX\n")

    def test_in_a_test(self):
        self.assert_accepted("src/agent/a_test.cpp", 'auto name = "UCX";\n')


class Environment(TidyTest):
    def test_read_outside_its_file(self):
        self.assert_rejected("getenv", "plugins/backends/ucx/a.cpp", 'auto v = std::getenv("HOME");\n')

    def test_read_in_its_file(self):
        self.assert_accepted("src/base/config.cpp", 'auto v = secure_getenv("HOME");\n')


class Threads(TidyTest):
    def test_made_by_hand(self):
        self.assert_rejected("thread", "src/agent/a.cpp", "std::thread worker;\n")

    def test_identity_is_not_a_thread(self):
        self.assert_accepted("src/agent/a.cpp", "std::thread::id id = std::this_thread::get_id();\n")


class Locks(TidyTest):
    def test_every_kind_of_the_standard_library(self):
        for kind in ("mutex", "shared_mutex", "recursive_mutex", "timed_mutex", "condition_variable",
                     "condition_variable_any", "lock_guard", "unique_lock", "scoped_lock", "shared_lock"):
            self.assert_rejected("lock", "src/wire/a.cpp", f"std::{kind} x;\n")
            self.assert_rejected("lock", "plugins/kit/a.h", f"#pragma once\nstd::{kind} x;\n", line=4)

    def test_the_finding_names_what_to_use(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "src/loop/a.h"
            path.parent.mkdir(parents=True)
            path.write_text(SPDX + "#pragma once\n    mutable std::mutex mutex_;\n")
            [found] = tidy.run_checks(tidy.Tree(folder, ["src/loop/a.h"]))
            self.assertIn("use nx::Mutex (base/mutex.h)", str(found))

    def test_ours(self):
        self.assert_accepted("src/wire/a.cpp", "nx::Mutex mutex;\nvoid f() { nx::MutexLock lock(mutex); }\n")

    def test_in_the_header_that_wraps_them(self):
        self.assert_accepted("src/base/mutex.h", "#pragma once\nstd::mutex mutex_;\n")

    def test_in_a_test(self):
        self.assert_accepted("src/wire/a_test.cpp", "std::mutex mutex;\n")


class Text(TidyTest):
    def test_missing_licence_lines(self):
        self.assertEqual(findings({"src/wire/a.cpp": "int a;\n"}), [("src/wire/a.cpp", 1, "spdx")])

    def test_a_script_without_a_suffix_needs_them_too(self):
        self.assertEqual(findings({"tools/x": "#!/bin/bash\ntrue\n"}), [("tools/x", 1, "spdx")])

    def test_a_text_file_needs_none(self):
        self.assertEqual(findings({"docs/a.md": "hello " * 50}), [])

    def test_a_long_line(self):
        self.assert_rejected("line-length", "src/wire/a.cpp", "// " + "x" * 118 + "\n")

    def test_a_line_of_the_greatest_length(self):
        self.assert_accepted("src/wire/a.cpp", "// " + "x" * 117 + "\n")

    def test_a_todo_without_an_issue(self):
        self.assert_rejected("todo", "src/wire/a.cpp", "// TODO: later\n")

    def test_a_todo_with_an_issue(self):
        self.assert_accepted("src/wire/a.cpp", "// TODO(#12): later\n")

    def test_a_header_without_pragma_once(self):
        self.assert_rejected("pragma-once", "src/wire/a.h", "int a;\n", line=1)


class Report(unittest.TestCase):
    def rows(self, files):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in (BACKGROUND | files).items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            tree = tidy.Tree(root, BACKGROUND.keys() | files.keys())
            return {question: (found, met, why) for question, _, found, met, why in tidy.report_rows(tree)}

    def assert_counts(self, question, files, found, without="0"):
        name = next(name for name in self.rows({}) if question in name)
        self.assertEqual(self.rows({})[name][0], without)
        self.assertTrue(self.rows({})[name][1])
        self.assertEqual(self.rows(files)[name][0], found)
        self.assertFalse(self.rows(files)[name][1])

    def test_build_files_that_name_a_backend(self):
        files = {"plugins/CMakeLists.txt": "add_subdirectory(backends/ucx)\n", "plugins/x.cmake": "# backends/ucx\n",
                 "tests/CMakeLists.txt": "add_subdirectory(plugins/backends/ucx)\n"}
        self.assertEqual(self.rows(files)["build files to touch outside its folder to add a backend"][:2], ("1", True))
        self.assert_counts("build files", files | {"CMakeLists.txt": "add_subdirectory(plugins/backends/ucx)\n"}, "2")

    def test_what_stands_in_shipped_code(self):
        self.assert_counts("names of backends", {"src/agent/a.cpp": SPDX + 'auto a = "UCX";\n'}, "1")
        self.assert_counts("read the environment", {"src/agent/a.cpp": SPDX + 'auto a = getenv("A");\n'}, "2", "1")
        self.assert_counts("`friend`", {"src/agent/a.cpp": SPDX + "class A { friend class B; };\n// friend\n",
                                        "src/agent/a_test.cpp": SPDX + "class A { friend class B; };\n"}, "1")
        self.assert_counts("singletons", {"src/agent/a.h": SPDX + "// Immutable.\nstatic A &\ninstance();\n"}, "1")
        self.assert_counts("on a feature", {"src/agent/a.h": SPDX + "#ifdef HAVE_GPU\n#ifdef NDEBUG\n"}, "1")
        self.assert_counts("do not say its threads",
                           {"src/agent/a.h": SPDX + "class A {\n};\n",
                            "src/agent/b.h": SPDX + "/// Guarded.\nclass B {\n};\n"}, "1")

    def test_what_stands_in_tests(self):
        question = "sleeps, flaky retries"
        self.assert_counts(question, {"src/agent/a_test.cpp": SPDX + "void f() { usleep(1); GTEST_SKIP(); }\n"},
                           "1, 0, 1", "0, 0, 0")

    def test_the_largest_need_a_reason(self):
        body = SPDX + "void\nlong(int a) {\n" + "    ++a;\n" * 50 + "}\n"
        rows = self.rows({"src/agent/a.cpp": body, "src/agent/a_test.cpp": body + body})
        self.assertEqual(rows["largest file"][:2], ("`src/agent/a.cpp`", False))
        self.assertIn("cut it", rows["largest file"][2])
        self.assertEqual(rows["largest function"][0], "`long`")

    def test_the_table_in_the_file_is_what_the_tree_answers(self):
        file = tidy.REPORT_FILE
        self.assertEqual(findings({file: "text\n"}), [(file, 1, "report")])
        old = "text\n" + tidy.REPORT_BEGIN + "| old |\n" + tidy.REPORT_END + "more\n"
        self.assertEqual(findings({file: old}), [(file, 2, "report")])
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / file).write_text(old)
            tidy.write_report(tidy.Tree(folder, [file]))
            written = (pathlib.Path(folder) / file).read_text()
            self.assertTrue(written.startswith("text\n") and written.endswith("more\n"))
            self.assertEqual(tidy.run_checks(tidy.Tree(folder, [file])), [])


class Sizes(unittest.TestCase):
    def test_a_function_is_counted_from_its_return_type_to_its_brace(self):
        text = "namespace nx {\n\nint\nadd(int a,\n    int b) {\n    if (a) {\n        return b;\n    }\n    return a;\n}\n}\n"
        self.assertEqual(list(tidy.cpp_functions(text)), [("add", 3, 8)])

    def test_classes_and_lambdas_are_no_functions(self):
        text = "class A {\n    int\n    b() {\n        auto c = [](int d) { return d; };\n        return c(1);\n    }\n};\n"
        self.assertEqual([name for name, _, _ in tidy.cpp_functions(text)], ["b"])


if __name__ == "__main__":
    unittest.main()
