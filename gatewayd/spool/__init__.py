"""The durable store: see `spool` for the promises, `migrations` for the tables."""

from gatewayd.spool.books import Books
from gatewayd.spool.reader import SpoolReader, SpoolStatus
from gatewayd.spool.spool import SqliteSpool

__all__ = ["Books", "SpoolReader", "SpoolStatus", "SqliteSpool"]
