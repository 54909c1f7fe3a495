"""Each kind of error is a class of its own, and stays itself through pickle."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
from transaction.interfaces import TransientError
from ZODB import POSException
from ZODB.utils import p64
from zodb_dht import errors
from zodb_dht.errors import CODES, make_error

OID, TID, SERIAL, TXN = p64(7), p64(11), p64(9), b"t" * 16
# What `ipfs add --cid-version 1 --raw-leaves` says for "hello world".
CID = b"bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
DETAILS = {"oid": OID, "tid": TID, "serial": SERIAL, "committed": TID, "txn": TXN, "pid": 4711, "cid": CID}

# What `transaction` and Zope repeat. The others must never be: their outcome is unknown, or the same again.
TRANSIENT = {
    "conflict",
    "read_conflict",
    "no_revision",
    "packed",
    "behind",
    "unavailable",
    "busy",
    "vote_lost",
    "too_old",
    "interrupted",
}


@pytest.mark.parametrize("code", CODES)
def test_an_error_is_the_same_after_pickle(code: str) -> None:
    error = make_error(code, "what was tried", DETAILS)
    assert type(error) is CODES[code]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert again.args == error.args


@pytest.mark.parametrize("code", CODES)
def test_an_error_without_details_has_a_text(code: str) -> None:
    assert "what was tried" in str(make_error(code, "what was tried", {}))


@pytest.mark.parametrize("code", CODES)
def test_only_what_may_be_repeated_is_transient(code: str) -> None:
    assert isinstance(make_error(code, "", DETAILS), TransientError) == (code in TRANSIENT)


@pytest.mark.parametrize("code", CODES)
def test_every_error_is_zodbs(code: str) -> None:
    assert isinstance(make_error(code, "", DETAILS), POSException.POSError)


def test_details_are_attributes() -> None:
    assert make_error("not_found", "", DETAILS).args == (OID,)
    conflict = make_error("read_conflict", "", DETAILS)
    assert isinstance(conflict, POSException.ReadConflictError)
    assert (conflict.oid, conflict.serials) == (OID, (TID, SERIAL))
    doubt = make_error("in_doubt", "", DETAILS)
    assert isinstance(doubt, errors.InDoubt)
    assert doubt.txn == TXN
    corrupt = make_error("corrupt", "", DETAILS)
    assert isinstance(corrupt, errors.Corrupt)
    assert (corrupt.oid, corrupt.tid, corrupt.file) == (OID, TID, None)
    assert corrupt.cid == CID.decode()
    file = make_error("corrupt", "", {"oid": p64(0), "tid": p64(0), "cid": b"", "file": b"db/1.sst"})
    assert isinstance(file, errors.Corrupt)
    assert (file.tid, file.cid, file.file) == (None, None, "db/1.sst")
    in_use = make_error("in_use", "", DETAILS)
    assert isinstance(in_use, errors.InUse)
    assert in_use.pid == 4711


def test_a_code_that_is_not_known_is_a_broken_core() -> None:
    error = make_error("news", "from a newer core", {})
    assert isinstance(error, errors.Broken)
    assert str(error) == "news: from a newer core"


def test_all_classes_are_exported() -> None:
    text = Path(errors.__file__).read_text()
    for name in re.findall(r"^class (\w+)", text, re.MULTILINE):
        assert name in errors.__all__
