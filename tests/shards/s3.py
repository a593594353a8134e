"""An S3 on the loopback: moto's server, which speaks the real protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem


class Bucket:
    """A bucket to put folders in."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.name = name
        self.client: Any = boto3.client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket=name)

    def put(self, folder: Path, prefix: str) -> str:
        """Uploads the files of a folder; returns their URL."""
        for path in folder.iterdir():
            if path.is_file():
                self.client.upload_file(str(path), self.name, f"{prefix}/{path.name}")
        return f"s3://{self.name}/{prefix}"


@contextmanager
def s3_server() -> Iterator[str]:
    """Starts a server that the environment names; yields its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with mock.patch.dict(os.environ, environment):
        S3FileSystem.clear_instance_cache()
        try:
            yield environment["AWS_ENDPOINT_URL"]
        finally:
            S3FileSystem.clear_instance_cache()
            server.stop()
