"""Toril on Redis, in BullMQ's wire format: the same program with another URL."""

from harness import URL

from peers import toril_sqlite


class PEER(toril_sqlite.PEER):
    url = f"{URL}?visible_connections=0"
