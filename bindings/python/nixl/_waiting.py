# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What the coroutines of an event loop wait for on one agent."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from . import _bindings as nixlBind

# Looking at a thousand transfers takes a while: of a loop's time at most one part in so many goes into looking, so that
# what ends meanwhile is found at once and not one by one.
_SHARE = 4
_LONG_LOOK = 0.001

_Notifs = dict[str, list[bytes]]


class Awaits:
    """Used by the thread of one event loop at a time: the loop of whoever awaits first, until nobody awaits."""

    def __init__(self, agent: nixlBind.nixlAgent):
        self._agent = agent
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._fd = -1
        self._timer: Optional[asyncio.TimerHandle] = None
        self._transfers: dict[int, list[asyncio.Future[str]]] = {}
        self._receivers: deque[asyncio.Future[None]] = deque()
        self._arrived: _Notifs = {}

    async def done(self, request: int) -> str:
        state = self._agent._poll(request)
        if state != "PROC":
            return state
        loop = self._begin()
        future: asyncio.Future[str] = loop.create_future()
        self._transfers.setdefault(request, []).append(future)
        try:
            return await future
        finally:
            futures = self._transfers.get(request, [])
            if future in futures:  # cancelled
                futures.remove(future)
                if not futures:
                    del self._transfers[request]
            self._end()

    async def notifs(self) -> _Notifs:
        while not (arrived := self.take(self._agent._newNotifs())):
            loop = self._begin()
            future: asyncio.Future[None] = loop.create_future()
            self._receivers.append(future)
            try:
                await future
            except asyncio.CancelledError:
                if future in self._receivers:
                    self._receivers.remove(future)
                if self._arrived:  # for this one, which does not take it any more
                    self._wake_receiver()
                raise
            finally:
                self._end()
        return arrived

    def take(self, arrived: _Notifs) -> _Notifs:
        """`arrived` behind what came for a coroutine that was cancelled before it could take it."""
        if not self._arrived:
            return arrived
        taken, self._arrived = self._arrived, {}
        for agent, messages in arrived.items():
            taken.setdefault(agent, []).extend(messages)
        return taken

    def _begin(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(
                    "another event loop awaits something of this agent; an agent serves one event loop at a time"
                )
            self._transfers.clear()
            self._receivers.clear()
            self._timer = None
            self._fd = self._agent.eventFd()
            loop.add_reader(self._fd, self._serve)
            self._loop = loop
        return loop

    def _end(self) -> None:
        if self._loop is None or self._transfers or self._receivers:
            return
        self._pause()
        self._loop = None

    def _pause(self) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.remove_reader(self._fd)

    def _resume(self) -> None:
        self._timer = None
        if self._loop is not None:
            self._loop.add_reader(self._fd, self._serve)

    def _serve(self) -> None:
        start = time.monotonic()
        requests = list(self._transfers)
        try:
            done, others, arrived = self._agent._look(requests, bool(self._receivers))
        except Exception as error:  # the agent has ended, or the system refuses: nobody shall wait for ever
            self._fail(error)
        else:
            for position in done:
                self._finish(requests[position], "DONE")
            for position in others:
                self._finish(requests[position])
            self._arrived = self.take(arrived)
            if self._arrived:
                self._wake_receiver()
        took = time.monotonic() - start
        if took > _LONG_LOOK and self._loop is not None:
            self._pause()
            self._timer = self._loop.call_later(took * _SHARE, self._resume)

    def _finish(self, request: int, state: Optional[str] = None) -> None:
        for future in self._transfers.pop(request):
            if future.done():
                continue
            try:
                future.set_result(state or self._agent._poll(request))
            except Exception as error:
                future.set_exception(error)

    def _wake_receiver(self) -> None:
        while self._receivers:
            future = self._receivers.popleft()
            if not future.done():
                future.set_result(None)
                return

    def _fail(self, error: Exception) -> None:
        futures = [future for each in self._transfers.values() for future in each] + list(self._receivers)
        self._transfers.clear()
        self._receivers.clear()
        for future in futures:
            if not future.done():
                future.set_exception(error)
