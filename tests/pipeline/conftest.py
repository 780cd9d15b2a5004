import uuid
from collections.abc import Iterator
from pathlib import Path

import cloud_servers
import pytest
import s3_server
from pipeline_fakes import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """A server of S3's protocol."""
    with s3_server.serving() as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a store that is not there yet."""
    s3_server.use(endpoint, monkeypatch)
    return f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def google() -> Iterator[str]:
    """A server of Google Cloud Storage's protocol."""
    with cloud_servers.google() as address:
        yield address


@pytest.fixture(scope="session")
def azure() -> Iterator[str]:
    """A server of Azure Blob Storage's protocol."""
    with cloud_servers.azure() as connection:
        yield connection


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("gs", "az")]


@pytest.fixture(params=["s3", "file", "memory", *SLOW])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same on each filesystem that a store may lie on."""
    name = uuid.uuid4().hex
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
    if request.param == "gs":
        cloud_servers.use_google(request.getfixturevalue("google"), monkeypatch)
        return f"gs://{cloud_servers.BUCKET}/{name}"
    if request.param == "az":
        cloud_servers.use_azure(request.getfixturevalue("azure"), monkeypatch)
        return f"az://{cloud_servers.BUCKET}/{name}"
    return f"file://{tmp_path / 'shared'}" if request.param == "file" else f"memory://{name}"
