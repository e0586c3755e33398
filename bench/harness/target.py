# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The target process: owns a buffer that others write into, and does what the initiator asks for."""

import os

from harness import memory
from harness.shared import READY, SEEN, STOP


class Target:
    def __init__(self, agent, channel, words):
        self._agent = agent
        self._channel = channel
        self._words = words
        self._buffer = None
        self._initiator = None

    def serve(self):
        """Answers calls (method, arguments) until the initiator is gone."""
        while True:
            try:
                method, arguments = self._channel.recv()
            except EOFError:
                return
            self._channel.send(getattr(self, method)(*arguments))

    def connect(self, initiator_metadata, size):
        self._buffer = memory.Buffer(size)
        self._agent.register_memory([(self._buffer.address, size, 0, "")], "DRAM")
        self._initiator = self._agent.add_remote_agent(initiator_metadata)
        return self._agent.get_agent_metadata(), self._buffer.address, os.getpid()

    def clear(self, size):
        self._buffer.bytes[:size] = 0

    def wrong_words(self, size):
        return memory.wrong_words(self._buffer.words[: size // 8])

    def wrong_blocks(self, block_bytes, pool, count):
        return memory.wrong_blocks(self._buffer.words, block_bytes, pool, count)

    def watch(self, size):
        """Spins; per notification, looks at the block it tells of and says so in shared memory.

        Returns how many notifications came and how many of them found the block without the new content.
        """
        poll, words = self._agent.get_new_notifs, self._words
        block = memoryview(self._buffer.words[: size // 8])
        last = size // 8 - 1
        seen = unseen = 0
        words[READY] = 1
        while not words[STOP]:
            for messages in poll().values():
                for _ in messages:
                    seen += 1
                    if block[0] != seen or block[last] != seen:
                        unseen += 1
                    words[SEEN] = seen
        return seen, unseen

    def echo(self):
        """Spins; answers every notification by one. Returns how many."""
        poll, send, words, initiator = self._agent.get_new_notifs, self._agent.send_notif, self._words, self._initiator
        count = 0
        words[READY] = 1
        while not words[STOP]:
            for messages in poll().values():
                for message in messages:
                    send(initiator, message)
                    count += 1
        return count
