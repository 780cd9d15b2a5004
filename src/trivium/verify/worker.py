"""The process in which a user's function runs: reads calls as JSON lines, writes results the same way.

It is started by its path (`verify.function`) in an isolated Python and imports nothing of Trivium. What the user's code prints
goes nowhere, so that it cannot be taken for a result.
"""

from __future__ import annotations

import json
import math
import os
import resource
import runpy
import sys
import traceback
from typing import Any


def main(path: str, name: str, cpu: float, memory: int) -> None:
    results = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def say(**result: Any) -> None:
        line = json.dumps(result).encode() + b"\n"
        while line:
            line = line[os.write(results, line) :]

    try:
        function = runpy.run_path(path)[name]
    except KeyError:
        return say(fatal=f"it has no function `{name}`")
    except BaseException as error:
        return say(fatal=f"it cannot be loaded: {_said(error)}")
    say(ready=True)
    for line in sys.stdin:
        call = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = math.ceil(used.ru_utime + used.ru_stime + cpu)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        try:
            value = function(call["record"], call["reply"])
        except BaseException as error:
            say(failed=_said(error))
            continue
        if isinstance(value, int | float) and math.isfinite(value):
            say(score=float(value))
        else:
            say(fatal=f"`{name}` must return a finite number or a bool, not {value!r:.80}")
    return None


def _said(error: BaseException) -> str:
    """The error and the line it comes from."""
    places = traceback.extract_tb(error.__traceback__)
    text = "".join(traceback.format_exception_only(error)).strip()
    return f"line {places[-1].lineno}: {text}" if places else text


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
