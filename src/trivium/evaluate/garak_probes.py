"""What garak knows of probes, as JSON on the last line. Run by the Python of garak's own environment, and by no other.

python garak_probes.py MODULE.CLASS...    {"version", "probes": {name: {"prompts", "capped", "detectors"} or its error}}
"""

from __future__ import annotations

import json
import sys
from typing import Any

import garak
from garak import _config, _plugins


def probe(name: str) -> dict[str, Any] | str:
    try:
        found = _plugins.load_plugin(f"probes.{name}")
    except Exception as error:  # garak raises what it likes
        return f"{type(error).__name__}: {error}"
    detectors = [one for one in (found.primary_detector, *found.extended_detectors) if one]
    capped = bool(getattr(found, "follow_prompt_cap", True))
    return {"prompts": len(getattr(found, "prompts", ())), "capped": capped, "detectors": detectors}


if __name__ == "__main__":
    _config.load_base_config()
    _config.run.soft_probe_prompt_cap = None
    print()
    print(json.dumps({"version": garak.__version__, "probes": {name: probe(name) for name in sys.argv[1:]}}))
