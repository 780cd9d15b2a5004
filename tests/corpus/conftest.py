import gc
import sys
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _collected() -> Iterator[None]:
    """Daft leaves the pipes of its worker processes to the garbage collector, which warns about each."""
    yield
    for name in ("last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)  # they hold a failed test's frames
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
