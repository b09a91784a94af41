"""How jobplan recognises a secret in a file that is checked in: by the name of its key, and in a connection string.

Settings, targets files and exported manifests must not contain secrets. libpq's own parser is not used: a string that
it refuses may contain a password nevertheless, and the message about it must not repeat it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

#: The keywords of libpq whose values are secret (source: `PQconndefaults`, those that it marks with `*`).
SECRET_KEYWORDS: Final = frozenset(
    {"password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"}
)
#: Words for a secret: in the names of keys, and as the type of a parameter, which does not exist.
SECRET_WORDS: Final = frozenset({"secret", "password", "passwd", "passphrase", "pwd", "credential", "token"})
_PART: Final = re.compile(rf"(?:{'|'.join(sorted(SECRET_WORDS))})s?|(?:api|client|server|private)_?key", re.IGNORECASE)
_URI: Final = re.compile(r"\w+(?::\w+)*://")
#: The host and port of a URI without a user; an @ after them is a part of the database's name.
_PORT: Final = re.compile(r"[^/@]*:\d*/")
#: A keyword of a connection string and its value, as libpq reads it.
_KEYWORD: Final = re.compile(
    r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*|(?=\s|$))(?=\s|$)", re.DOTALL
)
#: A keyword of a secret in a text that is not a valid connection string.
_LOOSE: Final = re.compile(rf"({'|'.join(sorted(SECRET_KEYWORDS))})\s*=", re.IGNORECASE)


def names_a_secret(key: str) -> bool:
    """Return whether the name of a key is that of a secret: `password`, `api_token`, `PGPASSWORD`."""
    return _PART.search(key.replace("-", "_")) is not None


def may_have_secret(line: str) -> bool:
    """Return whether a line may contain a secret, so that no message may repeat it: it has such a word, or a URI."""
    return "://" in line or names_a_secret(line)


def secrets_in(dsn: str) -> Iterator[str]:
    """Yield the keywords of secrets in a connection string, also in one that libpq does not accept."""
    uri = _URI.match(dsn.lstrip())
    if uri is not None:
        rest = dsn.lstrip()[uri.end() :]
        before = rest.partition("?")[0].rpartition("@")[0]
        if ":" in before and not _PORT.match(before):
            yield "password"
        for pair in rest.partition("?")[2].split("&"):
            if (keyword := unquote(pair.partition("=")[0]).lower()) in SECRET_KEYWORDS:
                yield keyword
    elif is_keyword_string(dsn):
        yield from (found[1] for found in _KEYWORD.finditer(dsn) if found[1].lower() in SECRET_KEYWORDS)
    else:
        yield from (found[1] for found in _LOOSE.finditer(dsn))


def is_connection_string(dsn: str) -> bool:
    """Return whether a text has the form of a connection string: a URI of PostgreSQL, or keywords with values."""
    return dsn.startswith(("postgresql://", "postgres://")) or is_keyword_string(dsn)


def is_keyword_string(dsn: str) -> bool:
    """Return whether a text consists of keywords with values, as libpq reads them."""
    end = 0
    while (found := _KEYWORD.match(dsn, end)) is not None and found.end() > end:
        end = found.end()
    return "\0" not in dsn and not dsn[end:].strip() and end > 0
