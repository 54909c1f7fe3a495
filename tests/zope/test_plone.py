"""The reduced form of the Plone run: the same life of a real Plone site on a peer, with few documents."""

from __future__ import annotations

from pathlib import Path

from run import live


def test_a_plone_site_lives_on_a_peer(tmp_path: Path) -> None:
    result = live("dht", 3, tmp_path / "site")
    seen = result["offline"]
    assert seen["items"] > 40
    assert seen["documents"]["portal_catalog"] >= seen["items"]
    assert seen["btrees"] > 500
    assert seen["blobs"] >= 10
