"""The ways to the server's token, each an `edge.runtime.ports.TokenSource`: a file, a program, a function, an endpoint
that refreshes it."""

from edge.adapters.token.command import TokenCommand
from edge.adapters.token.file import TokenFile
from edge.adapters.token.function import Given, TokenFunction
from edge.adapters.token.refresh import TokenRefresh
from edge.adapters.token.store import TokenStore

__all__ = ["Given", "TokenCommand", "TokenFile", "TokenFunction", "TokenRefresh", "TokenStore"]
