"""Arguments of any kind, and no memory for them."""

from __future__ import annotations

import pytest

from .conftest import Child

ARGUMENTS = """\
from zodb_dht import DHTStorage, _core

storage = DHTStorage("peer")
node = storage._peer.node
view = node.view()
view.advance(())

class Odd:
    def __iter__(self): raise ValueError("no")
    def __index__(self): raise ValueError("no")
    def __bool__(self): raise ValueError("no")

b8, b16, t = b"\\0" * 7 + b"\\1", b"t" * 16, ()
good = {
    (node, "view"): (b8,), (node, "load_before"): (b8, b8), (node, "load_serial"): (b8, b8),
    (node, "load_many"): ([b8], b8), (node, "load_revisions"): (b8 + b8, 1, True), (node, "current"): (b8, 1),
    (node, "transactions_backwards"): (b8, b8, 1),
    (node, "pack_begin"): (b8, True, True), (node, "pack_step"): (b"",), (node, "pack_end"): (), (view, "unpin"): (),
    (node, "stage_blob"): (b16, b8, "x", False), (node, "blob_file"): (b8, b8, True),
    (node, "history"): (b8, 1), (node, "transactions"): (b8, b8, 1), (node, "last_tid"): (), (node, "stats"): (),
    (node, "blob_dir"): (),
    (node, "new_oids"): (1,), (node, "vote"): (b16, b8, 0, b"", b"", b"", [(b8, b8, b"")], [(b8, b8)]),
    (node, "finish"): (b16, False),
    (node, "publish"): (b8,), (node, "abort"): (b16,), (node, "restore"): (b16, b8, " ", b"", b"", b"", [(b8, b"")]),
    (node, "drain"): (), (node, "outcome"): (b16,), (view, "load"): (b8,), (view, "load_before"): (b8, b8),
    (view, "prefetch"): ([b8],), (view, "advance"): ((),), (_core, "open"): ("x", "{}"),
}
bad = [None, 5, -1, 1 << 70, 1.5, "text", "\\udc80", "t\\0t", b"", b"7 bytes", b"9 bytes__",
       bytearray(8), object(), Odd(), [5], [b8, "x"],
       [()], [(b8,)], [(b8, 5, b"")], [(5, b8, b"")], [(b8, b8, "x")], [(b8, "x")], [(b8, b8, b8, b8)],
       {}, {b8: b8}, [[b8, b8, b""]], memoryview(b8)]
refused = 0
for limit, message in (1 << 70, "a count"), (1, "no"):
    try:
        node.load_revisions(b16, limit, Odd())
    except ValueError as e:
        assert message in str(e), e  # the first that is bad; nothing runs behind it
for (on, name), args in good.items():
    method = getattr(on, name)
    tries = [args + (b8,) * 9] + [args[:i] + (x,) + args[i + 1:] for i in range(len(args)) for x in bad]
    tries += [args[:-1]] if args and name != "view" else []
    for attempt in tries:
        try:
            result = method(*attempt)
        except (TypeError, ValueError):
            refused += 1
        except Exception as e:
            # What is well formed may have its own answer: no such object, a vote that was never made ...
            assert type(e).__module__.split(".")[0] in ("zodb_dht", "ZODB"), f"{name}{attempt!r}: {e!r}"
        else:
            if name == "open":
                result.close()
    try:
        method(*args, keyword=1)
    except TypeError:
        refused += 1
for make in (_core.Node, _core.View):
    try:
        make()
    except TypeError:
        refused += 1
assert refused > 300, refused
node.vote(b"z" * 16, b"\\0" * 8, 0, b"", b"", b"", [(b"\\0" * 6 + b"\\7\\7", b"\\0" * 8, b"data")], [])
node.finish(b"z" * 16, False)
storage.close()
print("done")
"""


def test_bad_arguments_are_type_or_value_errors(child: Child) -> None:
    assert child(ARGUMENTS) == "done\n"


MEMORY = """\
import _testcapi
from zodb_dht import _core, DHTStorage
from zodb_dht.errors import DHTError, POSKeyError

node = DHTStorage("peer")._peer.node
z64, one, two = b"\\0" * 8, b"\\0" * 7 + b"\\1", b"\\0" * 7 + b"\\2"

def commit(name, data, base):
    node.vote(name * 16, z64, 0, b"u", b"d", b"", [(one, base, data)], [])
    return node.finish(name * 16, False)

first = commit(b"1", b"a", z64)
second = commit(b"2", b"b" * 40000, first)
view = node.view()
view.advance(())

def pack():
    node.pack_begin(first, True, False)
    try:
        node.pack_step(b"")
    finally:
        node.pack_end()

calls = [
    lambda: node.view(), lambda: node.view(b"x"), lambda: view.load(one), lambda: view.load(two), lambda: view.at,
    lambda: view.load_before(one, b"\\x7f" * 8), lambda: node.view().advance([first]), lambda: view.prefetch([one]),
    lambda: node.load_before(one, second), lambda: node.load_serial(one, second), lambda: node.load_serial(two, second),
    lambda: node.load_many([one, two], second), lambda: node.load_many(iter([one]), b"short"),
    lambda: node.load_revisions(one + first + one + second + two + first, 1 << 20, True),
    lambda: node.history(one, 10), lambda: node.transactions(z64, second, 10),
    lambda: node.transactions_backwards(z64, second, 10), lambda: node.current(z64, 10),
    lambda: node.stats(), lambda: node.blob_dir(), lambda: node.last_tid(),
    lambda: node.vote(b"c" * 16, z64, 0, b"", b"", b"", [(one, first, b"x"), (two, z64, b"")], [(two, z64)]),
    lambda: node.finish(b"q" * 16, False), lambda: node.outcome(b"1" * 16), lambda: node.blob_file(one, first, False),
    lambda: node.stage_blob(b"z" * 16, one, "nothing", False), lambda: _core.open("peer", "{}"), pack,
]
failed = 0
for call in calls:
    for allocation in range(20):
        _testcapi.set_nomemory(allocation, allocation + 1)
        try:
            call()
        except MemoryError:
            failed += 1
        except (DHTError, POSKeyError, ValueError):
            pass
        finally:
            _testcapi.remove_mem_hooks()
        node.abort(b"c" * 16)
assert failed > len(calls), failed

# What finish raises MemoryError of is not committed.
data, name, outcomes = second, b"f" * 16, set()
for allocation in range(3):
    node.vote(name, z64, 0, b"", b"", b"", [(one, data, b"f")], [])
    _testcapi.set_nomemory(allocation, allocation + 1)
    try:
        data = node.finish(name, False)
        outcomes.add("done")
        name = bytes([allocation]) * 16
    except MemoryError:
        _testcapi.remove_mem_hooks()
        outcomes.add("failed")
        assert node.last_tid() == data
        node.abort(name)
    finally:
        _testcapi.remove_mem_hooks()
assert outcomes == {"done", "failed"}, outcomes
assert view.load(one) == (b"b" * 40000, second)
print("done")
"""


def test_without_memory_each_call_says_so_and_the_peer_goes_on(child: Child) -> None:
    pytest.importorskip("_testcapi")
    assert child(MEMORY) == "done\n"


ANY_BYTES = """\
import os
from zodb_dht import DHTStorage
from zodb_dht.errors import Failed

node = DHTStorage("peer")._peer.node
try:
    node.stage_blob(b"t" * 16, b"\\0" * 8, os.fsdecode(b"\\xffnone"), False)
except Failed as e:
    assert r"\\xffnone" in str(e), e
    print("done")
"""


def test_an_error_names_a_path_of_any_bytes(child: Child) -> None:
    assert child(ANY_BYTES) == "done\n"
