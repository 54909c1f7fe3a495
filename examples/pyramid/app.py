"""A guestbook on Pyramid whose database is a zodb_dht peer.

    pip install -r requirements.txt
    python app.py var/peer 6543
    curl -X PUT -d '{"text": "Hello"}' http://127.0.0.1:6543/ann
    curl http://127.0.0.1:6543/

Each request is a transaction (pyramid_tm); a conflict, or a peer that is out of reach for a moment, repeats it
(pyramid_retry). With PasteDeploy the same settings stand in an .ini file, and `main` is the application's factory.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid_zodbconn import get_connection
from waitress import create_server


def entries(request: Request) -> OOBTree:
    root = get_connection(request).root()
    if "entries" not in root:
        root["entries"] = OOBTree()
    return root["entries"]


def listing(request: Request) -> dict[str, str]:
    return {name: entry["text"] for name, entry in entries(request).items()}


def sign(request: Request) -> dict[str, str]:
    name = request.matchdict["name"]
    entries(request)[name] = PersistentMapping(text=request.json_body["text"])
    return {"name": name}


def main(global_config: dict[str, str], **settings: str) -> Any:
    """The WSGI application. Needs the setting zodbconn.uri."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_retry")
        config.include("pyramid_tm")
        config.include("pyramid_zodbconn")
        config.add_route("listing", "/")
        config.add_route("entry", "/{name}")
        config.add_view(listing, route_name="listing", renderer="json", request_method="GET")
        config.add_view(sign, route_name="entry", renderer="json", request_method="PUT")
        return config.make_wsgi_app()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    directory, port = sys.argv[1:]
    # Options of <dhtstorage> stand behind the ?; those that begin with connection_ or database_ are zodburi's own.
    uri = f"dht://{os.path.abspath(directory)}?cache-size=64MB&connection_cache_size=10000"
    application = main({}, **{"zodbconn.uri": uri, "retry.attempts": "3"})
    server = create_server(application, host="127.0.0.1", port=int(port), threads=4)
    server.print_listen("Serving on http://{}:{}")
    server.run()
