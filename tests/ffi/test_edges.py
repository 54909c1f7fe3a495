"""The extension's edges: a view, a close under way, stacks, a second import."""

from __future__ import annotations

import gc
import importlib.util
import resource
import subprocess
import sys
import weakref
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from zodb_dht import _core

from .conftest import Child

UNPUBLISHED = """\
from zodb_dht import DHTStorage
from zodb_dht.errors import ReadConflictError

node = DHTStorage("peer")._peer.node
oid, view = b"\\0" * 7 + b"\\1", node.view()
node.vote(b"t" * 16, b"\\0" * 8, 0, b"", b"", b"", [(oid, b"\\0" * 8, b"data")], [])
tid = node.finish(b"t" * 16, True)
try:
    view.load(oid)
except ReadConflictError:
    pass
node.publish(tid)
assert view.load(oid) == (b"data", tid)
print("done")
"""


def test_what_is_not_published_is_no_revision_for_a_new_view(child: Child) -> None:
    assert child(UNPUBLISHED) == "done\n"


CLOSE = """\
import threading
from ZODB.utils import p64, z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Closed

for round in range(5):
    storage = DHTStorage("peer")
    node = storage._peer.node
    begun = threading.Barrier(7)
    wrong, closed = [], []

    def use(thread):
        view, n = node.view(), 0
        view.advance(())
        calls = [lambda: node.stats(), lambda: node.load_many([p64(1)], p64(99)),
                 lambda: view.advance(()), lambda: node.last_tid(),
                 lambda: node.new_oids(1),
                 lambda: node.vote(p64(thread) + p64(n), z64, 0, b"", b"", b"", [(p64(1 + thread), z64, b"x")], []),
                 lambda: node.abort(p64(thread) + p64(n))]
        begun.wait()
        try:
            while True:
                n += 1
                calls[n % len(calls)]()
        except Closed:
            closed.append(thread)
        except BaseException as e:
            wrong.append(e)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    begun.wait()
    node.load_many([p64(1)], p64(99))
    storage.close()
    for t in threads:
        t.join(30)
    assert not wrong and len(closed) == 6, (wrong, closed)
print("done")
"""


def test_a_close_under_calls_of_other_threads(child: Child) -> None:
    assert child(CLOSE) == "done\n"


AGAIN = """\
import importlib, sys
import zodb_dht
from zodb_dht import DHTStorage, errors

storage = DHTStorage("peer")
oid = storage.new_oid()
first = sys.modules.pop("zodb_dht._core")
second = importlib.import_module("zodb_dht._core")
second.set_error_factory(errors.make_error)
try:
    second.open("peer", "{}")
except errors.InUse:
    pass
else:
    raise AssertionError("opened twice")
other = second.open("other", '{"create": true}')
other.new_oids(1)
other.close()
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    try:
        import _interpreters as interpreters
    except ImportError:
        interpreters = None
SUB = '''
try:
    from zodb_dht import _core, errors
    _core.set_error_factory(errors.make_error)
except ImportError:
    pass
'''
if interpreters:
    try:
        sub = interpreters.create()
        interpreters.run_string(sub, SUB)
        interpreters.destroy(sub)
    except RuntimeError as e:
        assert "ImportError" in str(e), e
try:
    second.open("peer", "{}")
except errors.InUse:  # ours: the other's classes ended with it
    pass
storage.new_oid()
assert first.version() == second.version()
storage.close()
print("done")
"""


DEEP = """\
import sys
from zodb_dht import DHTStorage

sys.setrecursionlimit(10_000)
storage = DHTStorage("peer")

def deep(levels):
    if levels:
        return max(map(deep, [levels - 1]))  # through C: each takes its stack
    return storage._peer.node.new_oids(1)

assert deep(2) > 0
assert deep(int(sys.argv[1])) > 0
storage.close()
print("done")
"""


@pytest.mark.parametrize(("limit", "levels"), [("256", 200), ("8192", 2_000), ("unlimited", 2_000)])
def test_calls_from_deep_within_the_main_thread(tmp_path: Path, limit: str, levels: int) -> None:
    """The core is told the bounds of the main thread's stack by bridge/stack.h."""
    if sys.version_info[:2] == (3, 12):  # it counts C's calls apart, against a limit of its own
        levels = min(levels, 200)
    if limit == "unlimited" and resource.getrlimit(resource.RLIMIT_STACK)[1] != resource.RLIM_INFINITY:
        pytest.skip("this machine limits the stack")
    run = f'ulimit -S -s {limit} && exec "$@"'
    command = ["sh", "-c", run, "sh", sys.executable, "-c", DEEP, str(levels)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


SHALLOW = """\
import threading
from ZODB.Connection import TransactionMetaData
from ZODB.utils import z64
from zodb_dht import DHTStorage

threading.stack_size(32 * 1024)  # the least that Python takes
storage = DHTStorage("peer", cache_size="8MB")
lives = []

def live():
    view = storage.new_instance()
    view.poll_invalidations()
    oid = view.new_oid()
    for size in (10, 20_000, 200_000):
        txn = TransactionMetaData()
        view.tpc_begin(txn)
        view.store(oid, view.getTid(oid) if size > 10 else z64, b"x" * size, "", txn)
        view.tpc_vote(txn)
        view.tpc_finish(txn)
        view.poll_invalidations()
        assert len(view.load(oid)[0]) == size
    try:
        view.load(b"missing!")
    except KeyError:
        lives.append(oid)

threads = [threading.Thread(target=live) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(lives) == 4
storage.close()
print("done")
"""


def test_a_life_in_threads_of_the_least_stack(child: Child) -> None:
    assert child(SHALLOW) == "done\n"


def test_a_second_import_and_a_subinterpreter(child: Child) -> None:
    assert child(AGAIN) == "done\n"


def test_a_module_that_nobody_has_is_collected() -> None:
    def load() -> list[weakref.ref[Any]]:
        spec = importlib.util.spec_from_file_location("zodb_dht._core", _core.__file__)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return [weakref.ref(module), weakref.ref(module.Node), weakref.ref(module.View)]

    left = load()
    gc.collect()
    assert [ref() for ref in left] == [None] * 3


def test_the_core_has_the_version_of_the_package() -> None:
    assert _core.version() == metadata.version("zodb_dht")
