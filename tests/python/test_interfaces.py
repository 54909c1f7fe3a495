"""What the storage declares it keeps, and it declares nothing else."""

from __future__ import annotations

import subprocess
import sys

from ZODB import interfaces
from zodb_dht import DHTStorage
from zope.interface import providedBy
from zope.interface.verify import verifyObject

from .helpers import begun


def test_the_root_keeps_what_it_declares(storage: DHTStorage) -> None:
    declared = set(providedBy(storage))
    assert declared == {
        interfaces.IBlobStorage,
        interfaces.IBlobStorageRestoreable,
        interfaces.IExternalGC,
        interfaces.IMultiCommitStorage,
        interfaces.IMVCCStorage,
        interfaces.IPrefetchStorage,
        interfaces.IStorageCurrentRecordIteration,
        interfaces.IStorageIteration,
        interfaces.IStorageRestoreable,
        interfaces.IStorageUndoable,
        interfaces.ReadVerifyingStorage,
    }
    for interface in declared:
        verifyObject(interface, storage)


def test_a_view_keeps_what_it_declares(storage: DHTStorage) -> None:
    view = storage.new_instance()
    for interface in providedBy(view):
        verifyObject(interface, view)
    view.poll_invalidations()
    for interface in providedBy(view):
        verifyObject(interface, view)
    assert not interfaces.IPrefetchStorage.providedBy(view)
    assert not interfaces.IMVCCPrefetchStorage.providedBy(storage)


def test_iterated_transactions_and_records_keep_theirs(storage: DHTStorage) -> None:
    txn = begun(storage, (storage.new_oid(), None, b"data"))
    storage.tpc_vote(txn)
    storage.tpc_finish(txn)
    (found,) = storage.iterator()
    verifyObject(interfaces.IStorageTransactionInformation, found)
    (record,) = found
    verifyObject(interfaces.IStorageRecordInformation, record)


def test_the_sort_key_comes_before_those_of_other_resource_managers(storage: DHTStorage) -> None:
    key = storage.sortKey()
    assert key == storage.new_instance().sortKey()
    for other in ("0", "140234", "A", "zodb", "~sendmail", "RelStorage", "/var/Data.fs"):
        assert key < other


def test_an_empty_storage_is_true(storage: DHTStorage) -> None:
    assert len(storage) == 0
    assert storage


def test_importing_the_package_does_not_load_the_core() -> None:
    code = "import sys, zodb_dht.storage, zodb_dht.zodburi, zodb_dht.zconfig; print('zodb_dht._core' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_importing_the_package_alone_loads_no_zodb() -> None:
    code = "import sys, zodb_dht; print('ZODB' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
