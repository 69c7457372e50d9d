"""New access tokens from Supabase's token endpoint, which gives a new refresh token with each and takes the old one for
some ten seconds more: used later it counts as stolen, and all of its kind are revoked.

So the new refresh token is on the card before the new access token is used, an exchange that has begun is never cut
short by us, and one whose answer was lost is repeated soon.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11

from edge.adapters.token.file import Signature, signature
from edge.adapters.token.store import Held, TokenStore, fingerprint
from edge.adapters.wire import Connector
from edge.core.token import Token, granted_life
from edge.errors import ConfigError, EdgeError, TokenRefused, Unreachable

_PATH = "/auth/v1/token?grant_type=refresh_token"
_CONNECT_S = 10.0
_ANSWER_S = 4.0  # well below the ten seconds, so that there is time to ask again
_MOST_BYTES = 64 << 10
_UNSAVED_LIFE_S = 60.0  # where the card took no token: so soon another exchange, and another try
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}", re.ASCII)
_KEPT = "audio is kept"


class TokenRefresh:
    """`seed` reads the refresh token that a person gave, `key` the project's public key: both raise ConfigError.
    `utc` is the wall clock in Unix seconds, None while it cannot be trusted. See `edge.runtime.ports.TokenSource`."""

    keeps = True
    remedy = "check that server.refresh_url belongs to the server"

    def __init__(
        self,
        url: str,
        connector: Connector,
        *,
        key: Callable[[], str],
        seed: Callable[[], str],
        files: Iterable[Path],
        store: TokenStore,
        utc: Callable[[], float | None],
        tell: Callable[[str, str], None],
    ) -> None:
        self._host = urlsplit(url).netloc
        self._connector = connector
        self._key = key
        self._seed = seed
        self._files = tuple(files)
        self._store = store
        self._utc = utc
        self._tell = tell
        self._held: Held | None = None
        self._seen: tuple[Signature, ...] = ()
        self._is_unsaved = False
        self._has_asked = False

    async def fetch(self) -> Token:
        """Exchange the refresh token. Raises Unreachable, ConfigError, or TokenRefused where it is worth nothing any
        more."""
        self._has_asked = False
        exchange = asyncio.create_task(self._exchange(), name="exchange token")
        try:
            return await asyncio.shield(exchange)
        except asyncio.CancelledError:
            if not self._has_asked:
                exchange.cancel()
            await asyncio.wait([exchange])  # what was rotated has to be saved, or the next start has nothing
            raise

    def has_changed(self) -> bool:
        """Whether one of the two files is another one than at the latest `fetch`."""
        return tuple(signature(path) for path in self._files) != self._seen

    # --- one exchange ----------------------------------------------------------------------------------------------

    async def _exchange(self) -> Token:
        self._seen = tuple(signature(path) for path in self._files)
        key, held = self._key(), self._choose()
        code, body = await self._post(key, held)
        if code != 200:
            raise _refusal(code, body, (held.text, key))
        answer = body if isinstance(body, dict) else {}
        text, following = answer.get("access_token"), answer.get("refresh_token", held.text)
        if not (isinstance(text, str) and isinstance(following, str)):
            text = following = ""
        if not (_TOKEN.fullmatch(text) and _TOKEN.fullmatch(following)):
            raise Unreachable("server.refresh_url gives an answer without tokens")
        life_s = granted_life(answer, text, self._utc())
        if not await self._save(Held(following, held.seed)):
            life_s = min(_UNSAVED_LIFE_S, life_s if life_s is not None else _UNSAVED_LIFE_S)
        return Token(text, life_s)

    def _choose(self) -> Held:
        """The latest refresh token; but a seed that was changed since takes over from all that came of the one before.
        It may also be gone: a cautious person takes it away once it is used."""
        held = self._held = self._held or self._store.load()
        try:
            seed = self._seed()
        except ConfigError:
            if held is None:
                raise
            return held
        if held is not None and held.seed == fingerprint(seed):
            return held
        return Held(seed, fingerprint(seed))

    async def _save(self, held: Held) -> bool:
        self._held = held
        try:
            await asyncio.to_thread(self._store.save, held)
        except OSError as error:
            if not self._is_unsaved:
                why = error.strerror or type(error).__name__
                what = f"the new refresh token cannot be kept in the state directory ({why})"
                self._tell("warning", f"{what}: it serves until the recorder ends, then a new one has to be seeded")
            self._is_unsaved = True
            return False
        self._is_unsaved = False
        return True

    # --- the request -----------------------------------------------------------------------------------------------

    async def _post(self, key: str, held: Held) -> tuple[int, Any]:
        content = json.dumps({"refresh_token": held.text}).encode()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport = await self._connector.stream(_CONNECT_S, lambda: protocol)
            self._has_asked = True
            try:
                async with asyncio.timeout(_ANSWER_S):
                    return await _talk(reader, transport, self._head(key, content), content)
            finally:
                transport.abort()
        except h11.RemoteProtocolError:
            raise Unreachable("server.refresh_url: it does not speak HTTP, or hung up") from None
        except (EdgeError, OSError) as error:
            raise Unreachable(f"server.refresh_url: {self._connector.named(error)}") from None

    def _head(self, key: str, content: bytes) -> h11.Request:
        headers = {
            "Host": self._host,
            "apikey": key,
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "User-Agent": "edge-recorder",  # without any the gateways of some take it for an attack
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        return h11.Request(method="POST", target=_PATH, headers=list(headers.items()))


async def _talk(
    reader: asyncio.StreamReader, transport: asyncio.Transport, head: h11.Request, content: bytes
) -> tuple[int, Any]:
    http = h11.Connection(h11.CLIENT)
    for part in (head, h11.Data(data=content), h11.EndOfMessage()):
        transport.write(http.send(part) or b"")
    code, body = 0, bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(1 << 16))
        elif isinstance(event, h11.Response):
            code = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or len(body) > _MOST_BYTES:
            break
    try:
        return code, json.loads(body)
    except (ValueError, RecursionError):
        return code, None


def _refusal(code: int, body: Any, secrets: tuple[str, ...]) -> EdgeError:
    """What an answer that is no success means."""
    said = body if isinstance(body, dict) else {}
    if code in (401, 403) and said and "error_code" not in said:  # the gateway's words, not the endpoint's
        return TokenRefused(
            f"server.refresh_url does not take the key (HTTP {code})", _KEPT, "check server.refresh_key_file"
        )
    if code in (400, 401, 403, 422) and said:
        why = next((said[name] for name in ("error_description", "msg", "message", "error_code") if said.get(name)), "")
        quoted = str(why)
        for secret in secrets:
            quoted = quoted.replace(secret, "***")
        quoted = "".join(sign if sign.isprintable() else " " for sign in quoted[:100])
        return TokenRefused(
            f"the refresh token is worth nothing any more: it was used twice, or revoked ({quoted or f'HTTP {code}'})",
            _KEPT,
            "sign in anew and write the new refresh token into server.refresh_token_file",
        )
    return Unreachable(f"server.refresh_url gives no token (HTTP {code})")
