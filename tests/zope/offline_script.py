"""Run by zconsole: checks a stopped site's database against a model, and prints what it saw as JSON.

Last argument: the model's file. Every record that the root reaches is loaded; every BTree among them checked; every
blob read; each catalog's tables compared with each other and with the content.
"""

import hashlib
import json
import sys
from pathlib import Path

from Acquisition import aq_base
from BTrees.check import check as check_btree
from BTrees.check import classify
from Products.ZCatalog.ZCatalog import ZCatalog
from ZODB.blob import Blob
from ZODB.serialize import referencesf
from ZODB.utils import z64

app = app  # noqa: F821 - zconsole binds it
model = json.loads(Path(sys.argv[-1]).read_text())
connection = app._p_jar
storage = connection._storage


def reachable():
    """Every oid that the root reaches. A reference to what is not there raises POSKeyError."""
    seen, todo = {z64}, [z64]
    while todo:
        data, _ = storage.load(todo.pop())
        for oid in referencesf(data):
            if oid not in seen:
                seen.add(oid)
                todo.append(oid)
    return seen


def blob_sha256(blob):
    with blob.open("r") as f:
        return hashlib.sha256(f.read()).hexdigest()


def check_catalog(catalog):
    """A catalog's tables hold the same documents, once each, and each path leads to an object; their number."""
    tables = catalog._catalog
    assert len(tables.uids) == len(tables.paths) == len(tables.data) == len(tables), catalog.getId()
    for path, rid in tables.uids.items():
        assert tables.paths[rid] == path, path
        app.unrestrictedTraverse(path)
    return len(tables)


btrees = blobs = blob_bytes = catalogs = 0
documents = {}
oids = reachable()
for oid in sorted(oids):
    obj = connection.get(oid)
    obj._p_activate()
    if isinstance(obj, Blob):
        with obj.open("r") as f:
            blob_bytes += len(f.read())
        blobs += 1
    else:
        try:
            classify(obj)
        except KeyError:
            pass
        else:
            if hasattr(obj, "_check"):  # not the buckets: their tree's check visits them
                obj._check()
                check_btree(obj)
                btrees += 1
    connection.cacheGC()

for name in ("portal_catalog", "uid_catalog", "reference_catalog"):
    catalog = app.Plone._getOb(name, None)
    if isinstance(aq_base(catalog), ZCatalog):
        documents[name] = check_catalog(catalog)
        catalogs += 1

for path, item in model.items():
    obj = app.unrestrictedTraverse("/Plone" + path)
    assert obj.title == item["title"], path
    assert obj.UID() == item["uid"], path
    if item["blob"] is not None:
        field = {"File": "file", "Image": "image"}[item["kind"]]
        assert blob_sha256(getattr(aq_base(obj), field)._blob) == item["blob"], path

print(json.dumps({
    "objects": len(oids),
    "btrees": btrees,
    "blobs": blobs,
    "blob_bytes": blob_bytes,
    "documents": documents,
    "items": len(model),
}))  # fmt: skip
