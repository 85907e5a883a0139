"""A server of the S3 protocol on loopback, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import pytest


@contextmanager
def s3_client(bucket: str) -> Iterator[Any]:
    """A client of a server with one empty bucket, which the environment names."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        # a connection that stays open keeps a thread of the server, which would be there when the interpreter ends
        handler = "moto.moto_server.threaded_moto_server.MotoRequestHandler.protocol_version"
        patch.setattr(handler, "HTTP/1.0", raising=False)
        server.start()
        host, port = server.get_host_and_port()
        # the servers of a process share their data
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        patch.setenv("S3_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "nobody")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket=bucket)
        try:
            yield client
        finally:
            server.stop()
