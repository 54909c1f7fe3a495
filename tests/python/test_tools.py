"""Tools of the ZODB world that ask for declared interfaces."""

from __future__ import annotations

import logging

import pytest
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
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
