"""Tells URLs from paths, and what of a URL may be shown and kept: all but its credentials."""

from __future__ import annotations

import dataclasses
import re
from argparse import ArgumentTypeError
from pathlib import Path
from typing import NamedTuple

from beyond_text.config.settings import Config

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(.*)", re.DOTALL)
_REST = re.compile(r"([^/?#]*)([^?#]*)(.*)", re.DOTALL)
# A user name and the beginning of a secret with a slash in it, as those of S3 have; not a port.
_BROKEN_SECRET = re.compile(r"[^:\[\]]*:(?!\d*$)")
# URLs of plain folders.
LOCAL = ("file", "local")
WEB = ("http", "https")
# There, what stands before an @ names a container or an owner.
NAMED_BEFORE_AT = ("abfs", "abfss", "adl", "az", "git", "github", "hf")


def scheme_of(text: str) -> str:
    """Returns the scheme of a URL in lower case, such as s3; "" of a path."""
    match = _URL.fullmatch(text)
    return match[1].lower() if match else ""


def is_url(text: str) -> bool:
    """Says whether a text is a URL of something else than a local folder."""
    return scheme_of(text) not in ("", *LOCAL)


def place_of(text: str) -> Path | str:
    """Returns what a user named: a path, or a URL as it was written.

    A path would take one of the slashes from a URL.
    """
    return text if is_url(text) else Path(text)


def check_place(place: object) -> None:
    """Raises FileNotFoundError where a path leads nowhere; what is at a URL, its reader says."""
    if isinstance(place, Path) and not place.exists():
        raise FileNotFoundError(f"{place}: no such file or folder")


def path_of(text: str) -> Path:
    """Returns the path of what lies on this machine, for argparse.

    Raises:
        ArgumentTypeError: it is a URL, of which a path would make folders such as `s3:`.
    """
    if is_url(text):
        raise ArgumentTypeError(f"{shown(text)}: expected a path on this machine, got a URL")
    return Path(text)


class _Parts(NamedTuple):
    """The parts of a URL; `user` is all before an @ that may be a credential."""

    scheme: str
    user: str
    host: str
    path: str
    query: str

    @classmethod
    def of(cls, url: str) -> _Parts | None:
        """Splits a URL; returns None for a path."""
        match = _URL.fullmatch(url)
        if match is None:
            return None
        scheme, host, path, query = match.groups()
        user = ""
        if "@" in host:
            if scheme.lower() not in NAMED_BEFORE_AT:
                user, _, host = host.rpartition("@")
        elif _BROKEN_SECRET.match(host) and "@" in path + query:
            user, _, rest = (host + path + query).partition("@")
            host, path, query = _REST.fullmatch(rest).groups()  # type: ignore[union-attr]
        return cls(scheme, user, host, path, query)


def shown(url: str) -> str:
    """Returns a URL without user name, password and query, which may all be credentials.

    It is the text itself where it has none, or is a path.
    """
    parts = _Parts.of(url)
    if parts is None:
        # As in simplecache::https://me:you@host, which is taken for a path.
        return re.sub(r"(://)[^/?#\s]*@", r"\1", url)
    scheme, _, host, path, query = parts
    return f"{scheme}://{host}{path}{'' if scheme.lower() in WEB else query}"


def shown_word(word: str) -> str:
    """Returns a word of a command line such as `data.dev=https://...`, without credentials."""
    key, equals, value = word.partition("=")
    return f"{key}{equals}{shown(value)}" if is_url(value) else shown(word)


def secrets_of(url: str) -> list[str]:
    """Returns the parts of a URL that `shown` leaves out, the longest first."""
    parts = _Parts.of(url)
    if parts is None or shown(url) == url:
        return []
    user, query = parts.user, parts.query if parts.scheme.lower() in WEB else ""
    values = [pair.partition("=")[2] for pair in query.lstrip("?").split("&")]
    found = {user, *user.split(":"), query, query.lstrip("?"), *values}
    return sorted(found - {""}, key=len, reverse=True)


def without_credentials(config: Config) -> Config:
    """Returns the settings of a run as they may be kept and compared: URLs without credentials."""
    data = config.data
    sources = {
        name: dataclasses.replace(source, path=shown(source.path))
        for name, source in data.sources.items()
    }
    kept = dataclasses.replace(data, dev=shown(data.dev), sources=sources)
    return dataclasses.replace(config, data=kept)
