"""The help of a source's `path` names the endings that its reader takes: all of them, and no others."""

from __future__ import annotations

import re

import pytest

from trivium.corpus.readers import READERS, archives, code, endings, text
from trivium.recipe.sources import Crawl, SourceBase

OF_FILES = [model for model, reader in READERS.items() if reader.endings is not None and model is not Crawl]


@pytest.mark.parametrize("model", OF_FILES)
def test_the_help_names_what_is_read(model: type[SourceBase]) -> None:
    reader = READERS[model]
    assert reader.endings is not None
    expected = {*reader.endings}
    if reader is code.CodeFiles:
        expected = {*archives.ZIP, *archives.TAR}
    elif not expected or not expected <= {*endings.SEEK}:  # Parquet is read from several places
        expected |= {*endings.PACKED}
    described = " ".join((model.model_fields["path"].description or "").split())
    assert {*re.findall(r"\.[a-z][a-z0-9.]*\b", described)} == expected
    assert reader is text.TextFiles or "in upper or lower case" in described
