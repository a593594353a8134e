"""Fetches files from a folder in any store that fsspec knows, such as S3, Google Cloud or the web.

A failure of the moment (a cut connection, a busy or broken server) is tried again, after waits that
double. The stores are the user's own choice, like a path: redirects are followed and private hosts
may be named, unlike with the URLs of a shop's table (`data_prep.fetch`), for what arrives is
compared with the manifest. URLs are not chained (`simplecache::s3://...`), so no second store is
ever behind the named one.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar
from urllib.parse import unquote

from fsspec import filesystem
from fsspec.callbacks import Callback
from fsspec.config import conf
from fsspec.registry import get_filesystem_class

from beyond_text.config.urls import WEB, scheme_of, secrets_of, shown
from beyond_text.shards.manifest import ShardError

Result = TypeVar("Result")

# Seconds before the second attempt and those after; half to one and a half times, by chance.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
# The stores of the extra `cloud`.
CLOUD = (*WEB, "gcs", "gs", "s3", "s3a")
# Seconds: a large shard may take any time, but some of it must arrive.
CONNECT, SILENCE = 30, 60
FINAL = (
    AttributeError,
    FileNotFoundError,
    ImportError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    PermissionError,
    TypeError,
    ValueError,
)
# Of the web, those that may be good a moment later; below 500 no others are.
PASSING = (408, 425, 429)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
RANDOM = SystemRandom()


class MissingError(ShardError):
    """A store has no such file."""


class LongError(ShardError):
    """A file is longer than it may be."""


class Remote:
    """A folder at a URL. `name` is the URL without credentials, as messages show it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = shown(url).rstrip("/")
        self._secrets = secrets_of(url)
        self._opened: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns what another process needs: connections are a process's own."""
        return self.__dict__ | {"_opened": None}

    def where(self, file: str) -> str:
        """Returns the name of a file in messages."""
        return f"{self.name}/{file}"

    def fetch(self, file: str, path: Path, most: int) -> None:
        """Writes the content of a file to a path.

        Raises:
            MissingError: there is none.
            LongError: it has more than `most` bytes.
            ShardError: it could not be fetched, after several attempts or because the store
                refuses.
            OSError: the path cannot be written.
        """

        def get(store: Any, folder: str) -> None:
            store.get_file(_joined(folder, file), str(path), callback=_AtMost(most))

        self._again(file, get, path)

    def sizes(self) -> Mapping[str, int] | None:
        """Lists the files of the folder with their sizes; None where the store does not say.

        A web server has no listing that can be relied on, and others may forbid it.
        """
        if scheme_of(self.url) in WEB:
            return None

        def listing(store: Any, folder: str) -> dict[str, int]:
            store.invalidate_cache()
            found = store.ls(folder, detail=True)
            return {each["name"].rpartition("/")[2]: each["size"] for each in found}

        try:
            return self._again("", listing)
        except (MissingError, ShardError):
            return None

    def _again(
        self, file: str, action: Callable[[Any, str], Result], path: Path | None = None
    ) -> Result:
        """Does something with the store, again where that can help."""
        where = self.where(file)
        for wait in (*WAITS, None):
            try:
                return action(*self._store())
            except ShardError:
                raise
            except FileNotFoundError:
                raise MissingError(f"{where}: no such file") from None
            except Exception as error:
                if isinstance(error, OSError) and error.errno in DISK:
                    raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
                # Not chained: what libraries say may hold the credentials of the URL.
                if _is_final(error):
                    raise ShardError(f"{where}: {self._reason(error)}") from None
                if wait is None:
                    attempts = len(WAITS) + 1
                    raise ShardError(
                        f"{where}: not fetched in {attempts} attempts: {self._reason(error)}"
                    ) from None
                time.sleep(wait * RANDOM.uniform(0.5, 1.5))
        raise AssertionError

    def _reason(self, error: Exception) -> str:
        """Returns what an error says, without credentials."""
        text = " ".join(str(error).split()) or type(error).__name__
        # Libraries may say them as they are, or decoded.
        for secret in self._secrets:
            text = text.replace(secret, "***").replace(unquote(secret), "***")
        is_refused = isinstance(error, PermissionError) or _lacks_credentials(error)
        if is_refused or getattr(error, "status", 0) in (401, 403):
            return (
                f"access refused ({text}); credentials are read from the environment, as by the "
                "store's own tools (AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, ~/.netrc)"
            )
        return f"{type(error).__name__}: {text}"

    def _store(self) -> tuple[Any, str]:
        """Returns fsspec's view of the store in this process, and the folder in it."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *self._open())
        return self._opened[1:]

    def _open(self) -> tuple[Any, str]:
        scheme = scheme_of(self.url)
        host = self.url.partition("://")[2].partition("/")[0]
        if scheme in CLOUD and scheme not in WEB and "@" in host:
            raise ShardError(f"{self.name}: credentials are read from the environment, not its URL")
        try:
            kind: Any = get_filesystem_class(scheme)
            if scheme in WEB:
                return filesystem(scheme, **_web_options()), self.url
            options = kind._get_kwargs_from_urls(self.url)
            return filesystem(scheme, **options), kind._strip_protocol(self.url)
        except ImportError as error:
            extra = "pip install 'beyond-text[cloud]'"
            needed = f"`{extra}`" if scheme in CLOUD else str(error)
            raise ShardError(
                f"{self.name}: {scheme}:// needs a package that is not installed: {needed}"
            ) from None
        except ValueError:
            raise ShardError(
                f"{self.name}: unknown kind of store {scheme!r}: expected a folder, or a URL such "
                "as s3://, gs:// or https://"
            ) from None


class _AtMost(Callback):
    """Counts the bytes that arrive, and stops a file that is too long: it would fill the disk."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def call(self, *args: Any, **kwargs: Any) -> None:
        """Is told of the size, and of further bytes."""
        if max(self.value, self.size or 0) > self.most:
            raise LongError(f"more than {self.most} bytes")


def _web_options() -> dict[str, Any]:
    """Returns options of fsspec's client; aiohttp's own would stop any download at five minutes.

    With `trust_env`, credentials of ~/.netrc and proxies of the environment are used. What the user
    has configured for fsspec comes first.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
    own = [conf.get(scheme, {}).get("client_kwargs", {}) for scheme in WEB]
    return {"client_kwargs": {"timeout": timeout, "trust_env": True} | own[0] | own[1]}


def _joined(folder: str, file: str) -> str:
    """Returns the place of a file in a folder; a query of the folder's URL stands after it."""
    if scheme_of(folder) not in WEB:
        return f"{folder.rstrip('/')}/{file}"
    place, mark, query = folder.partition("?")
    return f"{place.rstrip('/')}/{file}{mark}{query}"


def _is_final(error: Exception) -> bool:
    """Says whether another attempt would fail as well; of errors that nobody knows, it may not."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status not in PASSING
    return isinstance(error, FINAL) or _lacks_credentials(error)


def _lacks_credentials(error: Exception) -> bool:
    """Says whether a client found no credentials; each has a class of its own for that."""
    return "Credentials" in type(error).__name__
