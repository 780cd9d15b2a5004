"""What it takes to serve a file is measured by processes of their own: only by the tests that are about that."""

from __future__ import annotations

import pytest

from trivium.deploy import speed


@pytest.fixture(autouse=True)
def unserved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "served" not in request.node.name:
        monkeypatch.setattr(speed, "served", lambda *asked: {})
