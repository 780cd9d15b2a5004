import uuid
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(params=["s3", "file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same on each filesystem that a store may lie on."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
    return f"file://{tmp_path / 'shared'}" if request.param == "file" else f"memory://{uuid.uuid4().hex}"
