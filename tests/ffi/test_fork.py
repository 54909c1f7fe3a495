"""A child that is forked off: behind an open it can use nothing, before it everything."""

from __future__ import annotations

import sys

import pytest

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
    "current": (one, 1), "pack_begin": (one, True, True), "pack_step": (b"",), "pack_end": (),
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
