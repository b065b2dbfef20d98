"""Tokens: what somebody may do, signed. Pure: the time and the token's own id are arguments.

A JWT (HS256, that algorithm only) with `sub` = the stream it is for (or "*"), `scope` = read and/or write, `exp` in
seconds, and `buildId` as the old documents name it. One hour unless told otherwise.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import jwt

from eventstore.errors import CannotStart, Forbidden
from eventstore.event import StreamId

ISSUER = "foldstream"
HOUR = timedelta(hours=1)
LEEWAY = timedelta(seconds=30)
MIN_SECRET_BYTES = 32


class Signer:
    """Mints and verifies with one secret, or with a new and an old one during a rotation (the first one mints)."""

    def __init__(self, secrets: Sequence[str]) -> None:
        for secret in secrets:
            if len(secret.encode()) < MIN_SECRET_BYTES:
                raise CannotStart(
                    f"JWT_SECRET has {len(secret.encode())} bytes; it needs {MIN_SECRET_BYTES} or more",
                    fix='Make one: python3 -c "import secrets; print(secrets.token_urlsafe(48))"',
                )
        self._secrets = tuple(secrets)

    def __repr__(self) -> str:
        return f"<Signer with {len(self._secrets)} secrets>"

    def mint(self, subject: str, scopes: Sequence[str], now: datetime, jti: str, ttl: timedelta = HOUR) -> str:
        """A token for the stream named ``subject`` ("build-27"), or for every stream ("*")."""
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "scope": " ".join(scopes),
            "iat": int(now.timestamp()),
            "exp": int((now + ttl).timestamp()),
            "jti": jti,
        }
        if subject.startswith("build-"):
            claims["buildId"] = StreamId.parse(subject).id
        return jwt.encode(claims, self._secrets[0], algorithm="HS256")

    def verify(self, token: str, subject: str, scope: str, now: datetime) -> None:
        """Raises Forbidden unless ``token`` is ours, alive, and gives ``scope`` on ``subject``."""
        claims = self._claims(token)
        if int(claims["exp"]) + LEEWAY.total_seconds() <= now.timestamp():
            raise Forbidden("the token has expired", fix="Ask for a new one.")
        allowed = str(claims["sub"])
        if allowed != "*" and not hmac.compare_digest(allowed.encode(), subject.encode()):
            raise Forbidden("the token is for another run")
        if scope not in str(claims.get("scope", "")).split():
            raise Forbidden(f"the token does not give the right to {scope}")

    def _claims(self, token: str) -> dict[str, Any]:
        for secret in self._secrets:
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    secret,
                    algorithms=["HS256"],
                    issuer=ISSUER,
                    # The time is checked above, against the time that was passed in.
                    options={"require": ["exp", "sub", "iss"], "verify_exp": False, "verify_iat": False},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.InvalidTokenError as error:
                raise Forbidden("the token cannot be read") from error
            if not isinstance(claims["exp"], int):
                raise Forbidden("the token cannot be read")
            return claims
        raise Forbidden("the token is not signed by this server")
