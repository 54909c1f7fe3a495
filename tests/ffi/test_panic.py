"""A panic in any export of the extension becomes an exception and poisons that node; process and other nodes go on."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Child

# What Python sees of a panic in each export; SCRIPT has the calls that get there. A vote that waits for another is
# cancelled by its signal, and the signal's exception is what it ends with.
WANT = {
    "zd_call": "Broken",
    "zd_finish": "Broken",
    "zd_start": "Broken",
    "zd_wait": "Broken",
    "zd_cancel": "KeyboardInterrupt",
    "zd_try_load": "Broken",
    "zd_load": "Broken",
    "zd_visible": "Broken",
    "waiting": "Broken",  # no export: the goroutine of a call that waits
}

SCRIPT = """\
import os, signal, sys, threading
from ZODB.utils import p64, z64
from zodb_dht import DHTStorage
from zodb_dht.errors import Broken

name, want = sys.argv[1:]
storage, other = DHTStorage("peer"), DHTStorage("other")

def vote(storage, oid, id, serial=z64):
    return storage._peer.node.vote(id * 16, b"\\0" * 8, 0, b"", b"", b"", [(oid, serial, b"data")], [])

oid = p64(7)
vote(storage, oid, b"a")
tid = storage._peer.node.finish(b"a" * 16, False)
node, view = storage._peer.node, storage._peer.node.view()
view.advance(())
view.load(oid)
vote(storage, oid, b"b", tid)

def interrupted_vote():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    vote(storage, oid, b"c", tid)

calls = {
    "zd_call": lambda: node.stats(),
    "zd_finish": lambda: node.finish(b"b" * 16, False),
    "zd_cancel": interrupted_vote,
    "zd_try_load": lambda: view.load(oid),
    "zd_load": lambda: view.load(p64(12345)),  # not in memory
    "zd_visible": lambda: node.last_tid(),
}
call = calls.get(name, node.drain)
with open("panic.new", "w") as f:
    f.write(name)
os.rename("panic.new", "panic")
try:
    call()
except BaseException as e:
    got = type(e).__name__
else:
    got = "nothing"
os.remove("panic")
assert got == want, f"{name} raised {got}"

for write in (lambda: node.new_oids(1), lambda: node.finish(b"b" * 16, False), lambda: vote(storage, p64(8), b"d")):
    try:
        write()
    except Broken as e:
        assert "panic" in str(e), e
    else:
        raise AssertionError("the node is not poisoned")
assert storage.load(oid) == (b"data", tid), "reads go on"
vote(other, oid, b"e")
other._peer.node.finish(b"e" * 16, False)
assert other.load(oid)[0] == b"data", "another node goes on"
storage.close()
other.close()
again = DHTStorage("peer")
assert again.load(oid) == (b"data", tid)
vote(again, p64(9), b"f")
again._peer.node.finish(b"f" * 16, False)
again.close()
print("done")
"""


def exports(library: Path) -> set[str]:
    """The names that Go exports, from the library's own symbols."""
    nm = shutil.which("nm")
    assert nm, "nm was not found (Debian: apt-get install binutils)"
    symbols = subprocess.run([nm, "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"_cgoexp_[0-9a-f]+_(\w+)", symbols))


def test_no_export_is_forgotten(panicking: Path) -> None:
    assert exports(panicking / "zodb_dht" / "_core.abi3.so") == set(WANT) - {"waiting"}


@pytest.mark.parametrize("name", WANT)
def test_a_panic_is_an_exception(panicking: Path, child: Child, name: str) -> None:
    assert child(SCRIPT, name, WANT[name], package=panicking) == "done\n"
