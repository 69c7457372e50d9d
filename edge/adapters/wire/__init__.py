"""The way to the server, which HTTP and WebSocket share: names, TCP, the proxy, TLS; and what to call it when one of
them fails. Nothing here knows what is said over the connection."""

from edge.adapters.wire.connector import Connector
from edge.adapters.wire.rescue import ClockRescue
from edge.adapters.wire.tls import TlsFiles
from edge.adapters.wire.trouble import stranger

__all__ = ["ClockRescue", "Connector", "TlsFiles", "stranger"]
