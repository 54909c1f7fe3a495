"""Tools of the ZODB world that ask for declared interfaces."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import transaction
import zc.zodbdgc
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.config import databaseFromString
from ZODB.DB import DB
from ZODB.POSException import POSKeyError
from ZODB.utils import p64, u64
from zodb_dht import DHTStorage
from zodbverify.verify import verify_zodb

from .helpers import new


def test_zodbverify_reads_every_record(storage: DHTStorage, caplog: pytest.LogCaptureFixture) -> None:
    db = DB(storage)
    with db.transaction() as connection:
        for i in range(300):
            connection.root()[i] = PersistentMapping(n=i)
    new(storage, b"no pickle")
    with caplog.at_level(logging.INFO):
        verify_zodb(storage)
    assert "Scanned 302 records" in caplog.text
    assert "Found 1 records that could not be loaded" in caplog.text
    db.close()


DATABASE = """
<zodb {name}>
  <dhtstorage>
    path {path}
    shared {shared}
    pack-gc off
  </dhtstorage>
</zodb>
"""


@pytest.mark.parametrize("shared", ["off", "on"])
def test_zodbdgc_collects_across_databases(shared: str, tmp_path: Path) -> None:
    config = tmp_path / "databases.conf"
    sections = [DATABASE.format(name=name, path=tmp_path / name, shared=shared) for name in ("one", "two")]
    config.write_text("%import zodb_dht\n" + "".join(sections))
    with ExitStack() as stack:
        db = databaseFromString(config.read_text())
        for each in db.databases.values():
            stack.enter_context(closing(each))
        one = db.open()
        two = one.get_connection("two")
        kept, gone = two.root()["kept"], two.root()["gone"] = PersistentMapping(n=1), PersistentMapping()
        gone["back"] = gone
        blob = one.root()["blob"] = Blob(b"garbage")
        transaction.commit()
        one.root()["other database"] = kept
        del two.root()["kept"], two.root()["gone"], one.root()["blob"]
        transaction.commit()
        file = Path(blob.committed())
        one.close()
        for each in db.databases.values():
            each.pack()  # to zodbdgc an older revision's references count, too
        behind = max(p64(u64(each.lastTransaction()) + 1) for each in db.databases.values())
    garbage = [("one", u64(blob._p_oid)), ("two", u64(gone._p_oid))]
    assert zc.zodbdgc.gc_command([str(config), "-d0"], ptid=behind, return_bad=True) == garbage
    with ExitStack() as stack:
        db = databaseFromString(config.read_text())
        for each in db.databases.values():
            stack.enter_context(closing(each))
            each.pack()
        for name, oid in garbage:
            with pytest.raises(POSKeyError):
                db.databases[name].storage.load(p64(oid), "")
        one = db.open()
        assert one.root()["other database"]["n"] == 1
        assert not file.exists()
        one.close()
