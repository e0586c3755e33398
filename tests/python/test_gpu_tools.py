# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The programs that try a GPU do here what can be done without one, and say why the rest is skipped."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / "tools"
LIMIT_S = 200
# What runs without a GPU, by part: how many rows are tried. All others are skipped.
TRIED = {"registration": 2, "copies": 0, "same-host": 4, "one-context": 4, "network": 4, "torch": 0, "notifications": 1,
         "killed-peer": 2, "files": 2}
SETTINGS = {"network": {"UCX_TLS": "tcp,self"}, "one-context": {"UCX_TLS": "^shm"}}


def run(*command, **options):
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=LIMIT_S,
                          **options)


@pytest.mark.parametrize("part", TRIED)
def test_part_without_a_gpu(part, plugins, tmp_path):
    if "UCX" not in plugins:
        pytest.skip("there is no plugin UCX")
    # Also where there is a GPU: this is about what is done without one.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""} | SETTINGS.get(part, {})
    done = run(TOOLS / "gpu_peers.py", part, tmp_path / "rows", env=environment)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row for row in rows if row["verdict"] == "FAILED"] == []
    assert sum(row["verdict"] == "ok" for row in rows) == TRIED[part]
    for row in rows:
        if row["verdict"] == "skipped":
            assert re.search("PyTorch .*(is not installed|sees no CUDA device)", row["note"])


def test_there_is_a_test_for_each_part():
    done = run(TOOLS / "gpu-check", "--help")
    assert f"Parts: {', '.join(TRIED)};" in " ".join(done.stdout.split())


def test_check_outside_a_bundle_says_what_to_do():
    done = run(TOOLS / "gpu-check")
    assert done.returncode == 2
    assert "not a folder made by tools/gpu-bundle" in done.stderr


def test_check_names_the_parts_that_there_are():
    done = run(TOOLS / "gpu-check", "--only", "vram")
    assert done.returncode == 2
    assert "there is no part 'vram'; the parts are registration" in done.stderr


def test_bundle_leaves_a_foreign_folder_alone(tmp_path):
    (tmp_path / "mine").write_text("precious")
    done = run(TOOLS / "gpu-bundle", tmp_path)
    assert done.returncode == 1
    assert "was not made by this program" in done.stderr
    assert (tmp_path / "mine").read_text() == "precious"
