"""From the configuration to the one way by which the server's token comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge import config as configuration
from edge.adapters.provenance import require_system
from edge.adapters.token import TokenCommand, TokenFile, TokenRefresh, TokenStore
from edge.adapters.wire import ClockRescue, Connector
from edge.config import Loaded
from edge.errors import ConfigError
from edge.runtime.ports import TokenSource

Warn = Callable[[str], None]


def token_source(
    loaded: Loaded,
    store: Path,
    utc: Callable[[], float | None],
    warn: Warn,
    rescue: ClockRescue | None = None,
) -> TokenSource:
    """The configured one. `store` is where refresh tokens are kept, `utc` the wall clock in Unix seconds, None while
    it cannot be trusted, and `rescue` then helps with certificates; `warn` gets lines that a person should see. Raises
    ConfigError for what cannot work at all."""
    config = loaded.config
    kept = TokenStore(store)
    check(loaded, warn, has_stored=kept.load() is not None)
    if config.server.token_command:
        return TokenCommand(config.server.token_command, utc)
    if config.server.refresh_url:
        return TokenRefresh(
            config.server.refresh_url,
            Connector(config.server.refresh_url, proxy=config.connection.proxy, rescue=rescue),
            key=lambda: configuration.refresh_key(config),
            seed=lambda: configuration.refresh_token(config, _hear_nothing),
            files=(Path(config.server.refresh_key_file), Path(config.server.refresh_token_file)),
            store=kept,
            utc=utc,
            tell=lambda kind, text: warn(text),
        )
    # That a file is readable by all is said once, in `check`.
    return TokenFile(lambda: configuration.token(config, _hear_nothing), configuration.token_path(config))


def check(loaded: Loaded, warn: Warn, *, has_stored: bool = False) -> None:
    """Raises ConfigError for a token that could not be had, as far as that shows before it is asked for.
    `has_stored`: there is a refresh token already, so that the first one may be gone."""
    config = loaded.config
    if config.server.token_command:
        require_system("server.token_command", loaded.origins["server.token_command"])
    elif config.server.refresh_url:
        configuration.refresh_key(config)
        try:
            configuration.refresh_token(config, warn)
        except ConfigError:
            if not has_stored:
                raise
    else:
        configuration.token(config, warn)


def _hear_nothing(line: str) -> None:
    pass
