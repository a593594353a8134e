"""URLs and paths are told apart, and credentials are never shown or kept."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from beyond_text.config.compare import differences
from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.settings import ConfigError
from beyond_text.config.urls import is_url, path_of, place_of, secrets_of, shown
from beyond_text.terminal import one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a b/shards", True),
        ("GS://bucket", True),
        ("https://host:8080/x?y=z", True),
        ("memory://x", True),
        ("runs/shards", False),
        ("/tmp/s3:/x", False),
        ("file:///tmp/x", False),
        ("C:/shards", False),
        ("a=b://c", False),
        ("", False),
    ],
)
def test_what_is_a_url(text: str, expected: bool) -> None:
    assert is_url(text) is expected
    assert place_of(text) == (text if expected else Path(text))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a@b/c?d", "s3://bucket/a@b/c?d"),
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("https://me:pa@ss@host:1/a/?sig=x&b=y", "https://host:1/a/"),
        ("https://token@host/a#b", "https://host/a"),
        ("abfs://container@account.dfs.core.windows.net/a", None),
        ("runs/me:you@there?x", None),
        ("ftp://me:you@host/x", "ftp://host/x"),
        # Secrets of S3 may have a slash, which ends the host of a URL.
        ("s3://AKIA:wJal/rX/+b@bucket/a@b", "s3://bucket/a@b"),
        ("s3://AKIA:wJal?r#X@bucket", "s3://bucket"),
        ("https://host:8080/a@b", None),
        ("http://[::1]:80/a@b", None),
        ("gs://bucket/a:b@c", None),
    ],
)
def test_credentials_are_left_out(url: str, expected: str | None) -> None:
    assert shown(url) == (expected or url)
    for secret in secrets_of(url):
        assert secret in url
        assert secret not in shown(url)
    assert bool(secrets_of(url)) == (shown(url) != url)


def test_settings_are_kept_and_compared_without_credentials() -> None:
    places = ("https://me:s3cret@host/shards?sig=t0ken", "https://host/shards")
    one, other = (
        load_config([], [f"data.sources.shop.path={place}", f"data.dev={place}"])
        for place in places
    )
    assert one.data.dev == places[0]
    assert to_yaml(one) == to_yaml(other)
    assert differences(one, other) == []
    moved = load_config([], ["data.dev=https://me:s3cret@other/shards"])
    assert "s3cret" not in " ".join(differences(one, moved))


@pytest.mark.parametrize(
    "key", ["run", "start", "cache", "data.cache_dir", "text_encoder.path", "image_encoder.path"]
)
def test_what_lies_on_this_machine_is_no_url(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config([], [f"{key}=s3://key:s3cret@bucket/x"])
    assert str(raised.value) == f"{key}: expected a folder of this machine, got s3://bucket/x"
    with pytest.raises(ArgumentTypeError, match=r"^s3://bucket/x: expected a path on this machine"):
        path_of("s3://key:s3cret@bucket/x")


@pytest.mark.parametrize("key", ["data.devv", "steps", "data.cache_gb"])
def test_a_mistaken_setting_shows_no_credentials(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config([], [f"{key}=https://me:s3cret@host/shards?sig=t0ken"])
    line = one_line(raised.value)
    assert "https://host/shards" in line
    assert "s3cret" not in line


def test_a_chain_of_urls_is_shown_without_credentials() -> None:
    assert shown("simplecache::https://me:s3cret@host/x") == "simplecache::https://host/x"
