"""Everything that can go wrong, said the same way: what happened, where, and what to do.

TriviumError                exit 1   the root; anything below can be caught as this
├── RecipeError             exit 2   the recipe is wrong; found before any compute is spent
├── DataError               exit 3   the input cannot be used (missing, empty, malformed, overlapping)
├── ArtifactError           exit 4   a stored file is damaged, missing or of the wrong shape
├── GateError               exit 5   an evaluation gate did not pass, so the release is refused
├── TrainingError           exit 6   training cannot go on (a loss that is not finite, say)
└── Interrupted             exit 130 the user stopped the run; everything done so far is kept
    └── Preempted           exit 75  the same by SIGTERM: a launcher should start the command again (EX_TEMPFAIL)
"""

from __future__ import annotations


class TriviumError(Exception):
    """An error for people: `what` happened, `where`, and the `fix`.

    `str()` gives the three as one readable block, which is what the command line prints (without a traceback).
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class RecipeError(TriviumError):
    exit_code = 2


class DataError(TriviumError):
    exit_code = 3


class ArtifactError(TriviumError):
    exit_code = 4


class GateError(TriviumError):
    exit_code = 5


class TrainingError(TriviumError):
    exit_code = 6


class Interrupted(TriviumError):
    exit_code = 130


class Preempted(Interrupted):
    exit_code = 75
