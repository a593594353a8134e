"""Fetches many pictures at a time, politely: few of a host, with retries, each file whole.

A host that asks to wait is left alone so long; one that does not answer is given up.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx

from beyond_text.files import write_bytes
from beyond_text.tables.pictures import MAX_PIXELS
from beyond_text.tasks.cores import cores
from data_prep.fetch.addresses import CheckedTransport, is_public
from data_prep.fetch.content import check_picture
from data_prep.fetch.download import CONNECT_TIMEOUT, HEADERS, download
from data_prep.fetch.errors import FetchError
from data_prep.fetch.status import FAILED, FETCHED, Outcome

FOLDER = "images"
# A host that asks for a longer pause has failed.
LONGEST_WAIT = 120.0
# What a host says to all of its requests.
BUSY = ("status 429", "status 503")
# So many pictures in a row that a host did not answer for, and the rest is not tried.
GIVEN_UP_AFTER = 20


@dataclass(frozen=True)
class FetchSettings:
    """How pictures are fetched.

    Attributes:
        concurrency: most pictures at a time.
        per_host: most pictures of one host at a time.
        timeout: seconds that a request may take, to its last byte.
        attempts: most requests for a picture where the fault may pass.
        backoff: seconds before the second attempt; they double with each.
        max_bytes: of a picture's file.
        max_pixels: most pixels a picture's header may announce.
        user_agent: what the hosts are told who asks.
        allow_private: connects to addresses that are not public, too.
    """

    concurrency: int = 16
    per_host: int = 4
    timeout: float = 60.0
    attempts: int = 4
    backoff: float = 1.0
    max_bytes: int = 64_000_000
    max_pixels: int = MAX_PIXELS
    user_agent: str = "beyond-text/0.1"
    allow_private: bool = False


@dataclass
class _Host:
    """A host: how many requests it gets, until when it is left alone, and whether it answers."""

    slots: asyncio.Semaphore
    free_at: float = 0.0
    unanswered: int = 0
    urls: list[str] = field(default_factory=list)


def file_stem(url: str) -> str:
    """Names the file of a URL, without its extension; the same URL has the same name."""
    digest = sha256(url.encode(errors="backslashreplace")).hexdigest()
    return f"{FOLDER}/{digest[:2]}/{digest[:32]}"


def host_of(url: str) -> str:
    """Returns the host of a URL; "" of what is none."""
    with suppress(httpx.InvalidURL, UnicodeError):
        return httpx.URL(url).host
    return ""


async def fetch_all(
    urls: list[str], out: Path, settings: FetchSettings, done: Callable[[Outcome], None]
) -> None:
    """Fetches distinct URLs into `out`; calls `done` for each as soon as its file is written.

    Raises:
        OSError: a file cannot be written.
    """
    fetcher = _Fetcher(out, settings, done)
    async with fetcher.client:
        try:
            async with asyncio.TaskGroup() as tasks:
                for host in fetcher.by_host(urls):
                    remaining = iter(host.urls)
                    for _ in range(min(settings.per_host, len(host.urls))):
                        tasks.create_task(fetcher.work(host, remaining))
        except BaseExceptionGroup as errors:
            # The others were cancelled because of it.
            raise errors.exceptions[0] from None
        finally:
            fetcher.threads.shutdown(cancel_futures=True)


class _Fetcher:
    """What the workers of a fetch share."""

    def __init__(self, out: Path, settings: FetchSettings, done: Callable[[Outcome], None]) -> None:
        self.out = out
        self.settings = settings
        self.done = done
        self.running = asyncio.Semaphore(settings.concurrency)
        self.hosts: dict[str, _Host] = defaultdict(
            lambda: _Host(asyncio.Semaphore(settings.per_host))
        )
        # Decoding a large picture takes memory: few at a time.
        self.threads = ThreadPoolExecutor(min(4, cores()))
        self.client = httpx.AsyncClient(
            transport=CheckedTransport(
                (lambda _: True) if settings.allow_private else is_public, settings.concurrency
            ),
            headers=HEADERS | {"User-Agent": settings.user_agent},
            timeout=httpx.Timeout(settings.timeout, connect=min(CONNECT_TIMEOUT, settings.timeout)),
            # Neither passwords of a .netrc file nor cookies are sent.
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    def by_host(self, urls: list[str]) -> list[_Host]:
        """Sorts URLs by their hosts."""
        for url in urls:
            self.hosts[host_of(url)].urls.append(url)
        return list(self.hosts.values())

    async def work(self, host: _Host, urls: Iterator[str]) -> None:
        """Fetches the URLs of a host that no other worker has taken."""
        for url in urls:
            self.done(await self._fetch(host, url))

    async def _fetch(self, host: _Host, url: str) -> Outcome:
        """Fetches a URL in as many attempts as it takes and is granted."""
        if host.unanswered >= GIVEN_UP_AFTER:
            detail = f"{GIVEN_UP_AFTER} pictures before this one were not answered, or as busy"
            return Outcome(url, FAILED, "", 0, 0, "host given up", detail)
        attempt = 0
        while True:
            attempt += 1
            await self._wait_for(host)
            try:
                async with self.running:
                    file, size = await self._fetch_once(url)
            except FetchError as error:
                wait = self._wait_after(error, attempt)
                if wait is None:
                    refused = error.unreachable or error.reason in BUSY
                    host.unanswered = host.unanswered + 1 if refused else 0
                    detail = error.detail[:500]
                    return Outcome(url, FAILED, "", 0, attempt, error.reason, detail)
                if error.reason in BUSY:
                    host.free_at = max(host.free_at, asyncio.get_running_loop().time() + wait)
                else:
                    await asyncio.sleep(wait)
            else:
                host.unanswered = 0
                return Outcome(url, FETCHED, file, size, attempt, "", "")

    def _wait_after(self, error: FetchError, attempt: int) -> float | None:
        """Returns the seconds until the next attempt, or None where there is none."""
        if not error.passing or attempt >= self.settings.attempts:
            return None
        if error.wait is not None:
            return error.wait if error.wait <= LONGEST_WAIT else None
        # Hosts that failed together are not asked together again.
        longest = self.settings.backoff * 2 ** (attempt - 1)
        return min(LONGEST_WAIT, longest) * random.uniform(0.5, 1.0)

    async def _wait_for(self, host: _Host) -> None:
        """Waits until the host may be asked."""
        loop = asyncio.get_running_loop()
        while (seconds := host.free_at - loop.time()) > 0:
            await asyncio.sleep(seconds)

    async def _fetch_once(self, url: str) -> tuple[str, int]:
        """Downloads, checks and writes a picture; returns its file and its bytes."""
        data = await download(
            self.client,
            url,
            self.settings.timeout,
            self.settings.max_bytes,
            lambda name: self.hosts[name].slots,
        )
        keep = asyncio.get_running_loop().run_in_executor(self.threads, self._keep, url, data)
        return await keep, len(data)

    def _keep(self, url: str, data: bytes) -> str:
        """Checks a picture and writes it whole; returns its file's path within `out`."""
        file = file_stem(url) + check_picture(data, self.settings.max_pixels)
        (self.out / file).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.out / file, data)
        return file
