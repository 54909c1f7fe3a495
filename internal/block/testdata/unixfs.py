"""Makes unixfs.json: CIDs of files as `ipfs add --cid-version=1` names them, by the specifications alone.

Written from https://specs.ipfs.tech/unixfs/, https://ipld.io/specs/codecs/dag-pb/spec/ and
https://github.com/multiformats/cid; shares no code with boxo, which internal/block uses.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

CHUNK, WIDTH = 256 << 10, 174
RAW, DAG_PB = 0x55, 0x70
FILE = 2


def content(size: int) -> bytes:
    """Byte i is 7i + 13(i >> 8) + (i >> 16), modulo 256."""
    rows = [bytes((7 * k + c) & 255 for k in range(256)) for c in range(256)]
    return b"".join(rows[(13 * j + (j >> 8)) & 255] for j in range(size // 256 + 1))[:size]


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def field(number: int, value: bytes | int) -> bytes:
    """A field of protobuf: an integer or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def cid(codec: int, block: bytes) -> bytes:
    return bytes([1, codec, 0x12, 0x20]) + hashlib.sha256(block).digest()


def text(c: bytes) -> str:
    return "b" + base64.b32encode(c).decode().lower().rstrip("=")


def tree(data: bytes) -> str:
    """The root's CID."""
    chunks = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)] or [b""]
    # (CID, bytes of the file below it, bytes of all blocks below it and its own)
    level = [(cid(RAW, c), len(c), len(c)) for c in chunks]
    while len(level) > 1:
        above = []
        for i in range(0, len(level), WIDTH):
            kids = level[i : i + WIDTH]
            size = sum(k[1] for k in kids)
            unixfs = field(1, FILE) + field(3, size) + b"".join(field(4, k[1]) for k in kids)
            links = b"".join(field(2, field(1, k[0]) + field(2, b"") + field(3, k[2])) for k in kids)
            block = links + field(1, unixfs)
            above.append((cid(DAG_PB, block), size, len(block) + sum(k[2] for k in kids)))
        level = above
    return text(level[0][0])


SIZES = [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, WIDTH * CHUNK, WIDTH * CHUNK + 1, (WIDTH + 2) * CHUNK + 5]

if __name__ == "__main__":
    vectors = [{"size": n, "cid": tree(content(n))} for n in SIZES]
    Path(sys.argv[0]).with_suffix(".json").write_text(json.dumps(vectors, indent=1) + "\n")
