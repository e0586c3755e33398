# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of the comparison. How each is measured is the function of the same name in measure.py."""

import dataclasses
import typing

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

NEEDED_BYTES = 5 * GIB  # by the group that needs most, both processes


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that share one pair of processes."""

    name: str
    target: str  # "none"; "polls": it spins on get_new_notifs; "sleeps": it waits, its agent has a progress thread
    buffer_bytes: int = 0  # registered by either side
    with_tuned_peer: bool = False
    over_tcp: bool = False  # by UCX_TLS, and initiator and target on a core of their own


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    title: str
    group: str
    unit: str  # of the figures of a row: ms, us, ns, GB/s or %
    limit_s: float = 30.0  # a worker that is silent for longer is killed
    bar_ratio: typing.Optional[float] = None  # at least this much better than the peer
    bar_ratio_tuned: typing.Optional[float] = None  # and this much better than the tuned peer
    bar_limit: typing.Optional[float] = None  # at most this much, in the row's unit

    @property
    def more_is_better(self):
        return self.unit == "GB/s"


GROUPS = [
    Group("start", target="none"),
    Group("notify", target="polls", buffer_bytes=64 * KIB, with_tuned_peer=True),
    Group("blocks", target="sleeps", buffer_bytes=64 * MIB),
    Group("bulk", target="sleeps", buffer_bytes=1 * GIB),
    Group("lists", target="sleeps", buffer_bytes=1 * GIB),
    Group("tcp_polled", target="polls", buffer_bytes=64 * KIB, over_tcp=True),
    Group("tcp_asleep", target="sleeps", buffer_bytes=64 * KIB, over_tcp=True),
]

ROWS = [
    Row("import", "import of the Python package", "start", "ms", bar_limit=150),
    Row("create", "agent and backend creation returns", "start", "ms", bar_ratio=20),
    Row("first_metadata", "creation begun to first metadata blob", "start", "ms", bar_ratio=1),
    Row("idle_cpu", "idle agent, defaults: CPU of a core over 1 s", "start", "%", bar_limit=0.05),
    Row("write_notify_4k", "4 KiB write + notification", "notify", "us", bar_ratio=10, bar_ratio_tuned=1.3),
    Row("notify_round_trip", "notification round trip", "notify", "us", bar_ratio=10),
    Row("first_1m", "first 1 MiB to a new peer", "blocks", "ms", bar_ratio=3),
    Row("write_4k", "4 KiB write, post to done", "blocks", "us", bar_ratio=1.7),
    Row("blocks_256", "256 x 4 KiB, permuted", "blocks", "us", bar_ratio=3.5),
    Row("blocks_8192", "8192 x 4 KiB, permuted", "blocks", "us", bar_ratio=4),
    Row("python_overhead", "transfer + check_xfer_state beyond the bindings' calls", "blocks", "ns", bar_limit=350),
    Row("check_idle", "check_xfer_state of a request that is done", "blocks", "ns"),
    Row("notifs_idle", "get_new_notifs when nothing came", "blocks", "ns"),
    Row("write_1m", "1 MiB, one buffer", "bulk", "us", bar_ratio=1),
    Row("write_1m_cold", "1 MiB, rotating over 1 GiB", "bulk", "us"),
    Row("write_64m", "64 MiB contiguous, one buffer", "bulk", "GB/s", bar_ratio=1.1),
    Row("write_64m_cold", "64 MiB contiguous, rotating over 1 GiB", "bulk", "GB/s"),
    Row("prepare_1m", "prepare 1 M descriptors from an N x 3 array", "lists", "ms", bar_ratio=3),
    Row("make_256", "make a request of 256 out of 4096", "lists", "us", bar_ratio=2),
    Row("make_20k", "make a request of 20 k out of 1 M", "lists", "us", bar_limit=1000),
    Row("post_112k", "post call of 112 k descriptors of 8 KiB", "lists", "ms", limit_s=60, bar_limit=5),
    Row("register_10k", "register 10,000 views of one 2 GiB buffer", "lists", "ms", limit_s=60, bar_limit=20),
    Row("tcp_4k_polled", "4 KiB write over TCP, target polls", "tcp_polled", "us", bar_ratio=1),
    Row("tcp_4k_asleep", "4 KiB write over TCP, target sleeps", "tcp_asleep", "us", bar_ratio=1),
]


def by_group(chosen):
    for group in GROUPS:
        members = [row for row in chosen if row.group == group.name]
        if members:
            yield group, members


def group_named(name):
    return next(group for group in GROUPS if group.name == name)
