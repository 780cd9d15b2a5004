from __future__ import annotations

from collections.abc import Iterator

import pytest
from random_models import random_model
from served import Served

from trivium.recipe.network import Generation
from trivium.serve.engines import Limits
from trivium.serve.local import TorchEngine
from trivium.text.chat import ChatTokenizer


@pytest.fixture(scope="session")
def service(chat: ChatTokenizer) -> TorchEngine:
    model = random_model(context=512)
    return TorchEngine(
        model, chat, "tiny", Generation(temperature=0.0, max_new_tokens=24), Limits(tokens=4096, running=8)
    )


@pytest.fixture(scope="session")
def served(service: TorchEngine) -> Iterator[Served]:
    server = Served(service)
    yield server
    server.close()
