"""One open peer and what the storages on it share: its oids, and the order in which commits are announced."""

from __future__ import annotations

import os
import struct
import threading
import weakref
from collections.abc import Callable

from ZODB.blob import FilesystemHelper

from .errors import Closed
from .native import Node

OIDS_AT_ONCE = 1000
"""A reservation of oids is a log entry; those not used when the process ends are lost, as ZODB allows."""

p64 = struct.Struct(">Q").pack
_unpack = struct.Struct(">Q").unpack


def u64(b: bytes) -> int:
    """The number in eight bytes."""
    n: int = _unpack(b)[0]
    return n


def here(node: Node, pid: int) -> None:
    """WrongProcess in a child that was forked off behind the open, which pid is of.

    It is asked before a wait for another thread, which did not come along.
    """
    if os.getpid() != pid:
        node.last_tid()  # the core says so


class Peer:
    """An open node, counted: it closes with the last storage on it."""

    def __init__(self, node: Node, path: str) -> None:
        self.node = node
        self.path = path
        self._pid = os.getpid()
        # The core made the directory, with ZODB's marker in it, and knows where it is.
        self.fshelper = FilesystemHelper(node.blob_dir(), "bushy")
        self._head = threading.RLock()
        # What a callback is being told of, and in which thread; set under head. Who has heard of it and reads it waits
        # for the end of that.
        self.announced: bytes | None = None
        self.announcer = 0
        # Guarded by head: called after each commit of a shared storage.
        self.watchers: list[Callable[[], None]] = []
        # An object that was never here may be stored on any serial: it lies in the base of a DemoStorage.
        self.overlay = False
        # Guards the oid range and the count of users. Held across the reservation of a range; nothing else waits in it.
        self._lock = threading.Lock()
        self._next = self._end = 0
        self._users = 1
        _peers.add(self)

    @property
    def head(self) -> threading.RLock:
        """Held by a finish that has a callback, from before its commit until it is published, and by whoever asks the
        root for the newest state: so nobody sees a transaction, or a head without it, before its callback was called.
        Reentrant, since the callback may read. First of all locks; never taken by loads of views.
        """
        here(self.node, self._pid)
        return self._head

    def new_oid(self) -> bytes:
        """An oid nobody was given before."""
        if self._lock.locked():  # asking for the process takes longer than the rest
            here(self.node, self._pid)
        with self._lock:
            if self._next == self._end:
                self._next = self.node.new_oids(OIDS_AT_ONCE)
                self._end = self._next + OIDS_AT_ONCE
            n = self._next
            self._next = n + 1
        return p64(n)

    def used_oid(self, oid: bytes) -> None:
        """Never hand out oid, nor one below it, from the range at hand: it was written without being asked for here."""
        n = u64(oid)
        if not self._next <= n < self._end:  # nearly always; _next only rises within a range, so a race is harmless
            return
        here(self.node, self._pid)
        with self._lock:
            if self._next <= n < self._end:
                self._next = n + 1

    def forked(self) -> None:
        """In a child: the range at hand is its parent's, and the core gives it no other.

        A thread that did not come along may hold the lock.
        """
        self._next = self._end = 0
        self._lock = threading.Lock()

    def share(self) -> Peer:
        """One user more."""
        here(self.node, self._pid)
        with self._lock:
            if not self._users:
                raise Closed(f"{self.path}: the storage was closed")
            self._users += 1
        return self

    def close(self) -> None:
        """One user less."""
        here(self.node, self._pid)
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.node.close()


_peers: weakref.WeakSet[Peer] = weakref.WeakSet()
"""For _forked: os.register_at_fork keeps what it is given for good."""


def _forked() -> None:
    for peer in _peers:
        peer.forked()


os.register_at_fork(after_in_child=_forked)
