"""The catalog database, a FileStorage that all storages import: Products.ZCatalog over documents and their folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import transaction
from BTrees.OOBTree import OOBTree
from documents import Document, documents
from Products.PluginIndexes.DateIndex.DateIndex import DateIndex
from Products.PluginIndexes.FieldIndex.FieldIndex import FieldIndex
from Products.PluginIndexes.KeywordIndex.KeywordIndex import KeywordIndex
from Products.PluginIndexes.PathIndex.PathIndex import PathIndex
from Products.ZCatalog.ZCatalog import ZCatalog
from Products.ZCTextIndex.Lexicon import CaseNormalizer, Splitter, StopWordRemover
from Products.ZCTextIndex.OkapiIndex import OkapiIndex
from Products.ZCTextIndex.ZCTextIndex import PLexicon, ZCTextIndex
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf

PER_TRANSACTION = 100
COLUMNS = ("title", "kind", "lines", "modified")


def _create(root: Any) -> None:
    root["documents"] = OOBTree()
    catalog = root["catalog"] = ZCatalog("catalog")
    catalog.lexicon = PLexicon("lexicon", "", Splitter(), CaseNormalizer(), StopWordRemover())
    for index in (
        FieldIndex("title"),
        FieldIndex("kind"),
        FieldIndex("lines"),
        KeywordIndex("names"),
        DateIndex("modified"),
        PathIndex("path"),
        ZCTextIndex("text", caller=catalog, index_factory=OkapiIndex, lexicon_id="lexicon"),
    ):
        catalog._catalog.addIndex(index.getId(), index)
    for name in COLUMNS:
        catalog._catalog.addColumn(name)


def _add(root: Any, docs: list[Document]) -> None:
    for doc in docs:
        root["documents"][doc.path] = doc
        root["catalog"].catalog_object(doc, doc.path)


def build(spec: dict[str, Any], docs: int) -> Iterator[tuple[str, float]]:
    """Builds it in spec["path"], packed, so that each object has one record, whatever the batches were."""
    os.makedirs(spec["path"])
    storage = FileStorage(os.path.join(spec["path"], "Data.fs"))
    db = DB(storage, cache_size=1_000_000)
    manager = transaction.TransactionManager()
    conn = db.open(manager)
    _create(conn.root())
    manager.commit()
    found = documents(docs)
    for start in range(0, len(found), PER_TRANSACTION):
        _add(conn.root(), found[start : start + PER_TRANSACTION])
        manager.commit()
    yield "#documents", len(found)
    conn.close()
    storage.pack(time.time(), referencesf)
    yield "#objects", len(storage)
    db.close()
    os.remove(os.path.join(spec["path"], "Data.fs.old"))
