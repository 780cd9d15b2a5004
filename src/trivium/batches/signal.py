"""Whether replies teach anything: where none is worth more than another, every advantage is 0 and training only spends time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from trivium.errors import TrainingError
from trivium.types import Emit

FIRST = 3
"""Sets in a row without a signal after which a warning is given."""


def has_signal(tensors: Mapping[str, Tensor], group: int) -> bool:
    """Whether a set of replies has a signal: some group of `group` replies to one prompt, in which one may learn, has rewards
    that differ. With a critic (`group` 1) all replies of the set are held against each other.

    Reads `reward` (N,) and `loss_mask` (N, T), groups side by side. Without `reward` nobody knows: True.
    """
    if "reward" not in tensors:
        return True
    rewards = tensors["reward"].view(-1, group if group > 1 else len(tensors["reward"]))
    learned = (tensors["loss_mask"].sum(-1) > 0).view_as(rewards).any(-1)
    return bool(((rewards.amax(-1) > rewards.amin(-1)) & learned).any())


@dataclass
class Signal:
    """Counts the sets in a row that had none, and warns or ends the phase. A function of what the sets' files hold: all ranks
    and a resumed run get the same count."""

    group: int
    stop: int | None
    """So many sets end the phase."""
    sets: int | None
    """Of the whole phase, where that is known."""
    emit: Emit
    earlier: Callable[[int], Mapping[str, Tensor] | None]
    """The tensors of an earlier set; None where they are gone."""
    _without: dict[int, int] = field(default_factory=dict)

    def look(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Judges set `number` before it is trained on. TrainingError where as many as `stop` in a row had no signal."""
        count = self._without[number] = 0 if has_signal(tensors, self.group) else 1 + self._before(number)
        if not count:
            return
        rewards = tensors["reward"]
        told = (
            f"no reply was worth more than another {'to its prompt ' if self.group > 1 else ''}in the last {count} sets of "
            f"rollouts: rewards lie between {float(rewards.amin()):g} and {float(rewards.amax()):g}"
        )
        if count == min(FIRST, self.sets or FIRST):
            self.emit({"event": "no_signal", "set": number, "sets": count, "reward": float(rewards.mean())})
            self.emit({"event": "warning", "message": f"{told}, and nothing is learned from them"})
        if self.stop is not None and count >= self.stop:
            raise TrainingError(
                f"{told} (`stop_without_signal: {self.stop}`)",
                fix="give prompts that are solved sometimes, more replies to each, a higher `temperature`, longer replies, or a "
                "reward that tells replies apart",
            )

    def _before(self, number: int) -> int:
        """Sets without a signal in a row up to the one before `number`."""
        count = 0
        for earlier in range(number - 1, -1, -1):
            if earlier in self._without:
                return count + self._without[earlier]
            tensors = self.earlier(earlier)
            if tensors is None or has_signal(tensors, self.group):
                break
            count += 1
        return count
