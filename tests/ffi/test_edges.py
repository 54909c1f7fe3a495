"""The extension's edges: a fork, a signal, arguments of any kind, a close under way, a second import."""

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

FORK = """\
import os, signal, sys
from zodb_dht import _core, DHTStorage
from zodb_dht.errors import WrongProcess

storage = DHTStorage("peer")
node = storage._peer.node
view, fixed = node.view(), node.view(b"\\0" * 7 + b"\\1")
view.advance(())
one, two, t16 = b"\\0" * 7 + b"\\1", b"\\0" * 7 + b"\\2", b"t" * 16
args = {
    "view": (), "load_before": (one, two), "load_serial": (one, two), "load_many": ([one], two), "history": (one, 1),
    "load_revisions": (one + two, 1, True), "transactions_backwards": (one, two, 1),
    "current": (one, 1), "repeats": (one + two,), "pack_begin": (one, True, True), "pack_step": (b"",), "pack_end": (),
    "stage_blob": (t16, one, "x", False), "blob_file": (one, two, True),
    "transactions": (one, two, 1), "last_tid": (), "stats": (), "blob_dir": (), "new_oids": (1,),
    "vote": (t16, one, 0, b"", b"", b"", [], []),
    "finish": (t16, False), "publish": (one,), "abort": (t16,), "restore": (t16, one, " ", b"", b"", b"", []),
    "drain": (),     "outcome": (t16,), "close": (),
}
of_view = {"load": (one,), "load_before": (one, two), "prefetch": ([one],), "advance": ((),), "unpin": ()}
public = lambda t: {n for n in dir(t) if not n.startswith("_")}
assert public(_core.Node) == set(args), public(_core.Node) ^ set(args)
assert public(_core.View) == set(of_view) | {"at"}, public(_core.View)

pid = os.fork()
if pid == 0:
    signal.alarm(30)  # a child that hangs dies
    calls = [(node, n, a) for n, a in args.items()] + [(view, n, a) for n, a in of_view.items()]
    calls.append((_core, "open", ("elsewhere", "{}")))
    for on, name, a in calls:
        try:
            getattr(on, name)(*a)
        except WrongProcess:
            continue
        except BaseException as e:
            print(f"{name}: {e!r}", file=sys.stderr)
        os._exit(3)
    try:
        view.at
    except WrongProcess:
        pass
    else:
        os._exit(4)
    try:
        storage.close()
    except WrongProcess:
        pass
    del view, fixed, node, storage, calls
    sys.exit(0)  # an ordinary exit: atexit, finalizers, deallocation
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert status == 0, f"the child ended with {status}"
node.new_oids(1)
storage.close()
print("done")
"""


def test_after_a_fork_every_entry_point_says_so(child: Child) -> None:
    assert child(FORK) == "done\n"


INTERRUPT = """\
import os, signal, threading
from ZODB.utils import p64, z64
from zodb_dht import DHTStorage

storage = DHTStorage("peer", vote_wait=50, lease=50)
node = storage._peer.node
write = [(p64(1), z64, b"data")]
node.vote(b"a" * 16, b"\\0" * 8, 0, b"", b"", b"", write, [])
for n in range(3):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        node.vote(b"b" * 16, b"\\0" * 8, 0, b"", b"", b"", write, [])
    except KeyboardInterrupt:
        continue
    raise AssertionError("the vote was not interrupted")
tid = node.finish(b"a" * 16, False)
assert node.vote(b"c" * 16, b"\\0" * 8, 0, b"", b"", b"", [(p64(1), tid, b"more")], []) == []
node.finish(b"c" * 16, False)
assert storage.load(p64(1))[0] == b"more"
storage.close()
print("done")
"""


def test_a_waiting_vote_can_be_interrupted(child: Child) -> None:
    assert child(INTERRUPT) == "done\n"


INTERRUPTED_OPEN = """\
import contextlib, os, signal, threading
from pathlib import Path
from zodb_dht import DHTStorage

storage = DHTStorage("peer", blob_dir="blobs")
oid = storage.new_oid()
storage.close()
place = Path("peer/blob-dir")
text = place.read_bytes()
place.unlink()
os.mkfifo(place)  # an open waits in its midst until somebody has written to it

def interrupt(number, frame):
    with place.open("wb") as f:  # whoever looks again finds a file
        place.unlink()
        place.write_bytes(text)
        f.write(text)
    while not any(name.endswith("/mark") for name in open_files()):
        pass  # the log is about to be read, and then nothing is left that looks at a cancelled context
    seen, same = None, 0
    while same < 1000:  # until nothing has moved for a while: the open is over
        now = os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")
        seen, same = now, same + 1 if now == seen else 0
    raise KeyboardInterrupt

def open_files():
    for n in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(f"/proc/self/fd/{n}")

signal.signal(signal.SIGUSR1, interrupt)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
try:
    storage = DHTStorage("peer")
    raise AssertionError("the open was not interrupted")
except KeyboardInterrupt:
    pass
storage = DHTStorage("peer")  # nobody holds it
assert storage.new_oid() > oid
storage.close()
print("done")
"""


def test_an_interrupt_behind_an_open_leaves_nothing_open(child: Child) -> None:
    assert child(INTERRUPTED_OPEN) == "done\n"


INTERRUPTED_FINISH = """\
import os, signal, threading
from ZODB.Connection import TransactionMetaData
from ZODB.utils import z64
from zodb_dht import DHTStorage

def begun(*records):
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    oids = [storage.new_oid() for _ in records]
    for oid, data in zip(oids, records):
        storage.store(oid, z64, data, "", txn)
    storage.tpc_vote(txn)
    return txn, oids[0]

def interrupt():
    while not finished and head.acquire(blocking=False):  # until the finish has it
        head.release()
    os.kill(os.getpid(), signal.SIGINT)

for shared in (False, True):
    storage = DHTStorage(f"peer{shared}", shared=shared)
    head = storage._peer.head
    for n in range(8):
        txn, large = begun(*[os.urandom(10_000)] * 500)
        thread = threading.Thread(target=interrupt)
        finished = False
        try:
            thread.start()
            storage.tpc_finish(txn, lambda tid: None)
            finished = True
            while True:
                thread.join(0.01)
        except KeyboardInterrupt:
            thread.join()
        if not finished:
            storage.tpc_abort(txn)
        txn, small = begun(b"small")
        tid = storage.tpc_finish(txn, lambda tid: None)
        assert storage.lastTransaction() == tid and storage.load(small) == (b"small", tid), (shared, n)
        assert not finished or len(storage.load(large)[0]) == 10_000
    storage.close()
print("done")
"""


def test_an_interrupt_behind_a_finish_hides_no_commit(child: Child) -> None:
    assert child(INTERRUPTED_FINISH) == "done\n"


IMPORTED = """\
import os, sys
from zodb_dht import DHTStorage
from ZODB.utils import p64

assert "zodb_dht._core" in sys.modules
assert len(os.listdir("/proc/self/task")) == 1, "threads that a fork does not survive"
for _ in range(2):
    pid = os.fork()
    if not pid:
        storage = DHTStorage("peer")
        storage.new_oid()
        storage.close()
        print("a child's", flush=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
storage = DHTStorage("peer")
storage.new_oid()
storage.close()
print("ours")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Go's threads start with the import")
def test_a_process_may_fork_between_the_import_and_the_first_open(child: Child) -> None:
    assert child(IMPORTED) == "a child's\na child's\nours\n"


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
    (node, "transactions_backwards"): (b8, b8, 1), (node, "repeats"): (b8 + b8,),
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
    lambda: node.repeats(one + second), lambda: node.stats(), lambda: node.blob_dir(), lambda: node.last_tid(),
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
