"""A signal's handler may raise between any two steps of a transaction: nothing stays reserved for it."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import zodb_dht
from ZODB.utils import z64
from zodb_dht import DHTStorage

from .conftest import Opener
from .helpers import begun, commit

OURS = str(Path(zodb_dht.__file__).parent)


@contextlib.contextmanager
def interrupt(step: int) -> Iterator[list[bool]]:
    """Raise KeyboardInterrupt before a step of the package's Python within the block, which swallows it.

    Yields a list that is empty if the block ended before.
    """
    interrupted: list[bool] = []
    steps = itertools.count()

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(steps) == step:
            interrupted.append(True)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield interrupted
    except KeyboardInterrupt:
        assert interrupted
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("what", ["tpc_vote", "tpc_abort"])
def test_an_interrupt_at_any_step_leaves_nothing_reserved(what: str, open_storage: Opener) -> None:
    storage = open_storage(vote_wait="100ms")
    oid = storage.new_oid()
    serial = commit(storage, (oid, z64, b"x"))
    for step in itertools.count():
        txn = begun(storage, (oid, serial, b"interrupted"))
        if what == "tpc_abort":
            storage.tpc_vote(txn)
        with interrupt(step) as interrupted:
            getattr(storage, what)(txn)
        storage.tpc_abort(txn)
        other = begun(storage, (oid, serial, b"another"))
        storage.tpc_vote(other)  # Busy if the object is still reserved
        storage.tpc_abort(other)
        if not interrupted:
            break
    assert step > 10
    assert storage.load(oid) == (b"x", serial)


def test_an_interrupt_behind_any_call_leaves_no_lock_held(storage: DHTStorage) -> None:
    for step in itertools.count():
        calls = itertools.count()

        def profile(frame: FrameType, event: str, arg: Any, step: int = step, calls: Iterator[int] = calls) -> None:
            if event == "c_return" and frame.f_code.co_filename.startswith(OURS) and next(calls) == step:
                raise KeyboardInterrupt

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            storage.new_oid()
        except KeyboardInterrupt:
            assert not storage._peer._lock.locked()
        else:
            break
        finally:
            sys.setprofile(before)
    assert step > 0
