"""How replies are drawn where nobody says otherwise: the part of `generation_config.json` that is no token id.

transformers and vLLM read the same file, so a model is used alike everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trivium.errors import ArtifactError
from trivium.recipe.network import Generation

FILE = "generation_config.json"


def read(folder: Path) -> Generation | None:
    """What the checkpoint in `folder` says; None where it says nothing. ArtifactError for values that mean nothing.

    As in transformers, `do_sample: false` takes the likeliest token whatever else stands there, and `do_sample: true` alone
    is a temperature of 1. A `top_k` that is not there is off.
    """
    path = folder / FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        present = {key: value for key, value in raw.items() if value is not None}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"{FILE} cannot be read: {error}", where=str(path)) from None
    given = {name: present[name] for name in Generation.model_fields if name in present}
    sampled = present.get("do_sample")
    if sampled is False:
        given["temperature"] = 0.0
    elif sampled:
        given.setdefault("temperature", 1.0)
    if not given:
        return None
    try:
        return Generation.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{FILE} says {first['loc'][0]}: {first['input']!r:.40}, which cannot be: {first['msg']}"
        raise ArtifactError(what, where=str(path), fix="mend the file") from None


def entries(generation: Generation | None) -> dict[str, Any]:
    """`generation` in the words of the file. transformers refuses a temperature of 0, and takes 50 for a missing `top_k`."""
    if generation is None:
        return {}
    if generation.temperature == 0:
        return {"do_sample": False, "max_new_tokens": generation.max_new_tokens}
    return {"do_sample": True, **generation.model_dump()}
