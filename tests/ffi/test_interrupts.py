"""Signals whose handlers raise: while a call waits, and behind its end."""

from __future__ import annotations

from .conftest import Child

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
