"""What the editors of the runs write: real text, files and images, the same in every run."""

from __future__ import annotations

import base64
import hashlib
import random
import struct
import zlib
from pydoc_data.topics import topics
from typing import Any

_PARAGRAPHS = [p for topic in sorted(topics) for p in topics[topic].split("\n\n") if len(p) > 80]
_MARKUP = str.maketrans("<>&", "   ")


def word(number: int) -> str:
    """A word that no other document has, for the full-text search."""
    return f"zq{number}qz"


def text(number: int) -> str:
    """Some paragraphs of Python's reference, and the document's own word. Without what Plone's HTML filter changes."""
    chosen = random.Random(number).sample(_PARAGRAPHS, 4)
    return "".join(f"<p>{p.translate(_MARKUP)}</p>" for p in chosen) + f"<p>{word(number)}</p>"


def data(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def png(number: int, side: int) -> bytes:
    """A picture of coloured noise: Pillow scales it, zlib can't shrink it."""
    noise = data(number, side * side * 3)
    rows = b"".join(b"\0" + noise[y * side * 3 : (y + 1) * side * 3] for y in range(side))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + end


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def document(item_id: str, number: int, title: str) -> dict[str, Any]:
    rich = {"data": text(number), "content-type": "text/html", "encoding": "utf-8"}
    return {"@type": "Document", "id": item_id, "title": title, "text": rich}


def upload(content: bytes, filename: str, content_type: str) -> dict[str, str]:
    encoded = base64.b64encode(content).decode()
    return {"data": encoded, "encoding": "base64", "filename": filename, "content-type": content_type}
