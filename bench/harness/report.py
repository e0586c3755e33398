# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""From rounds to ratios, to the result file and to tables."""

import collections
import json
import os
import statistics

LABELS = ("ours", "peer", "tuned")
FEWEST_ROUNDS = 5
BUSY_CORES = 0.5  # used by others; spinning processes then wait for whole time slices


class Result:
    """Collects the figures of all rounds."""

    def __init__(self, chosen, **about):
        self.about = about
        self._rows = chosen
        self._figures = collections.defaultdict(list)

    def add(self, label, name, figure):
        self._figures[name, label].append(figure)

    def finish(self):
        return self.about | {"rows": [self._finish_row(row) for row in self._rows]}

    def _finish_row(self, row):
        figures = {label: self._figures[row.name, label] for label in LABELS if (row.name, label) in self._figures}
        failures = [
            f"{label}, round {number + 1}: {figure['failure']}"
            for label, rounds in figures.items()
            for number, figure in enumerate(rounds)
            if "failure" in figure
        ]
        summary = {label: _summary(rounds) for label, rounds in figures.items()}
        ratios = {label: _ratio(row, figures["ours"], figures[label]) for label in figures if label != "ours"}
        return {
            "name": row.name,
            "title": row.title,
            "unit": row.unit,
            "bar": _bar(row),
            "bar_met": _bar_met(row, summary["ours"], ratios),
            "summary": summary,
            "ratio": ratios,
            "failures": failures,
            "figures": figures,
        }


def save(path, result):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


def load(path):
    with open(path) as file:
        return json.load(file)


def table(result):
    """For a terminal."""
    cells = [_HEADER] + [_cells(row) for row in result["rows"]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
    lines += [f"{row['name']}: {failure}" for row in result["rows"] for failure in row["failures"]]
    return "\n".join([*lines, "", *_notes(result)])


def markdown(result):
    """For the README."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [_HEADER] + [_cells(row) for row in result["rows"]]]
    lines.insert(1, "|---" * len(_HEADER) + "|")
    return "\n".join([*lines, "", *_notes(result)])


_HEADER = ["Work", "Unit", "Ours: p50 (p99)", "Original: p50 (p99)", "Ratio (range)"]
_HEADER += ["Original tuned", "Ratio (range)", "Bar"]


def _cells(row):
    tuned = row["summary"].get("tuned")
    met = {True: " met", False: " missed", None: ""}[row["bar_met"]]
    return [
        row["title"],
        row["unit"],
        _figure(row["summary"]["ours"], row["unit"]),
        _figure(row["summary"]["peer"], row["unit"]),
        _range(row["ratio"]["peer"]),
        _figure(tuned, row["unit"]) if tuned else "",
        _range(row["ratio"]["tuned"]) if tuned else "",
        row["bar"] + met,
    ]


def _notes(result):
    machine, versions = result["machine"], result["versions"]
    others = machine["others_cores"]
    sides = [f"{label} {version['version']} (UCX {version['ucx'] or 'unknown'})" for label, version in versions.items()]
    notes = [
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, load {machine['load_before']} to "
        f"{machine['load_after']}, {min(others)} to {max(others)} cores used by others; "
        f"{'; '.join(sides)}; {result['rounds']} interleaved rounds: `{result['command']}`.",
        "A ratio is how many times better ours is: median of the rounds and their range.",
    ]
    if result["scale"] > 1:
        notes.append(f"For want of memory, large buffers and descriptor counts were divided by {result['scale']}.")
    if result["rounds"] < FEWEST_ROUNDS or result["quick"]:
        notes.append(f"Not a result: it takes {FEWEST_ROUNDS} full rounds.")
    if statistics.median(others) > BUSY_CORES:
        notes.append("Not a result: others used the cores in most rounds.")
    return notes


def _summary(rounds):
    """Medians over the rounds of every number that the figures have."""
    good = [figure for figure in rounds if "value" in figure]
    if not good:
        return {}
    summary = {
        name: statistics.median(figure[name] for figure in good)
        for name, value in good[0].items()
        if isinstance(value, (int, float))
    }
    paths = sorted({figure["path"] for figure in good if "path" in figure})
    return summary | ({"path": ", ".join(paths)} if paths else {})


def _ratio(row, ours, other):
    ratios = []
    for mine, theirs in zip(ours, other):
        if mine.get("value", 0) > 0 and theirs.get("value", 0) > 0:
            ratio = theirs["value"] / mine["value"]
            ratios.append(1 / ratio if row.more_is_better else ratio)
    if not ratios:
        return None
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def _bar(row):
    if row.bar_limit is not None:
        return f"<= {row.bar_limit:g} {row.unit}"
    wanted = (("", row.bar_ratio), ("tuned ", row.bar_ratio_tuned))
    return ", ".join(f"{label}>= {bar:g}x" for label, bar in wanted if bar)


def _bar_met(row, ours, ratios):
    """True, False, or None where there is no bar or no figure to hold against it."""
    if row.bar_limit is not None:
        return ours["value"] <= row.bar_limit if ours else None
    wanted = {label: bar for label, bar in (("peer", row.bar_ratio), ("tuned", row.bar_ratio_tuned)) if bar}
    if not wanted or not all(ratios[label] for label in wanted):
        return None
    return all(ratios[label]["median"] >= bar for label, bar in wanted.items())


def _figure(summary, unit):
    if not summary:
        return "failed"
    text = _number(summary["value"])
    if "p99" in summary:
        text += f" ({_number(summary['p99'])})"
    if unit == "GB/s":
        text += f", {_number(summary['cpu_s_per_gib'])} CPU-s/GiB"
    return text


def _range(ratio):
    return f"{_number(ratio['median'])} ({_number(ratio['min'])}-{_number(ratio['max'])})" if ratio else "-"


def _number(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
