# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What the examples share: options, waits that end, and errors as sentences."""

import argparse
import asyncio
import ipaddress
import os
import socket
import sys
import time

TIMEOUT_S = 60.0
ASK_AGAIN_S = 3.0
PAUSE_S = 0.0005


class Failure(Exception):
    """The example did not succeed; the text says why."""


def describe(error):
    """A Failure and NIXL's errors say everything in their sentence; others need their type."""
    explained = isinstance(error, (Failure, RuntimeError)) or hasattr(error, "status")
    return str(error) if explained else f"{type(error).__name__}: {error}"


def run(main):
    """Exits with 0 if main() returns, otherwise with 1 and the reason on standard error."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # a Failure, or one of NIXL's errors
        print(f"{os.path.basename(sys.argv[0])}: {describe(error)}", file=sys.stderr)
        sys.exit(1)


def wait_for(what, predicate, timeout_s=TIMEOUT_S):
    """The first true result of predicate(), for what nothing tells of: metadata that a peer sends. Failure: none within
    the limit; `what` is what was waited for."""
    end = time.monotonic() + timeout_s
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() > end:
            raise Failure(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(PAUSE_S)


def finish(agent, handle, timeout_s=TIMEOUT_S):
    """Sleeps until a posted transfer has ended; it raises if it failed."""
    if not hasattr(agent, "wait"):  # the original, on which the examples for two peers run, too
        wait_for("the end of the transfer", lambda: agent.check_xfer_state(handle) != "PROC", timeout_s)
        if agent.check_xfer_state(handle) != "DONE":
            raise Failure("the transfer failed")
    elif agent.wait(handle, timeout_s) != "DONE":
        raise Failure(f"the transfer did not end within {timeout_s:g} s")


async def all_done(agent, handles, timeout_s=TIMEOUT_S):
    """The same for several in an event loop, whose other tasks run meanwhile."""
    try:
        await asyncio.wait_for(asyncio.gather(*(agent.done(handle) for handle in handles)), timeout_s)
    except asyncio.TimeoutError:
        raise Failure(f"the transfers did not end within {timeout_s:g} s") from None


def two_peers_parser(description):
    """The options of an example that runs as two processes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", required=True, choices=["target", "initiator"],
                        help="which of the two processes this is; the target may be started first or second")
    parser.add_argument("--ip", type=ipv4_address, default="127.0.0.1",
                        help="where the target listens, as the initiator reaches it (default 127.0.0.1)")
    parser.add_argument("--port", type=port_number, default=5555, help="port the target listens on (default 5555)")
    parser.add_argument("--by-name", action="store_true",
                        help="meet at the directory that the environment names (docs/directory.md), without addresses")
    parser.add_argument("--timeout", type=seconds, default=TIMEOUT_S, metavar="SECONDS",
                        help=f"how long to wait for the other process (default {TIMEOUT_S:g})")
    return parser


def meet_target(agent, options, descs=None):
    """The initiator's first step: swaps metadata with the target, which may not listen yet, and waits for it.

    With `descs`: until it knows this memory of the target. A target answers from the moment it listens, perhaps before
    it has registered anything.
    """
    where = () if options.by_name else (options.ip, options.port)
    place = "the directory" if options.by_name else f"{options.ip}:{options.port}"
    meet(agent, "target", descs, where, f"an answer of the target at {place} (start this program with --mode target "
         "there)", options.timeout)


def meet(agent, peer, descs, where, what, timeout_s):
    """Sends the own metadata to an address, or publishes it, and fetches the peer's there, until it is known."""
    next_try = 0.0

    def met():
        nonlocal next_try
        if agent.check_remote_metadata(peer, descs):
            return True
        if time.monotonic() >= next_try:
            agent.fetch_remote_metadata(peer, *where)
            agent.send_local_metadata(*where)
            next_try = time.monotonic() + ASK_AGAIN_S
        return False

    wait_for(what, met, timeout_s)


def meet_initiator(agent, options):
    """The target's first step: waits until an initiator has sent its metadata, or has published it."""
    if options.by_name:
        meet(agent, "initiator", None, (), "a visit of an initiator at the directory (start this program with --mode "
             "initiator)", options.timeout)
        return
    wait_for(f"a visit of an initiator at port {options.port} (start this program with --mode initiator)",
             lambda: agent.check_remote_metadata("initiator"), options.timeout)


def next_message(agent, sender, timeout_s):
    """Sleeps until one notification of `sender` is here, the only agent that sends any, and only one."""
    if hasattr(agent, "wait_notifs"):
        messages = agent.wait_notifs(timeout_s).get(sender)
    else:
        messages = wait_for(f"a notification of the {sender}", lambda: agent.get_new_notifs().get(sender), timeout_s)
    if not messages:
        raise Failure(f"a notification of the {sender} did not come within {timeout_s:g} s")
    if len(messages) > 1:
        raise Failure(f"the {sender} sent {len(messages)} notifications instead of one: {messages}")
    return messages[0]


def ipv4_address(text):
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        pass
    try:
        return socket.gethostbyname(text)
    except OSError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither an IPv4 address nor the name of a host") from None


def port_number(text):
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port; it must be 1 to 65535")
    return int(text)


def seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds above 0")
    return value
