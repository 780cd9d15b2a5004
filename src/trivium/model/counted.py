"""What a pass has to compute where only some places count: no padding behind the longest row, one prompt for the two replies of a
preference pair, and logits only where there is a target. The results are those of the plain pass, with zeros elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.types import Batch


class Plan(NamedTuple):
    """A smaller batch, and where the places of the whole one stand in it."""

    tokens: Tensor  # (R, W) int64
    positions: Tensor  # (R, W) int64
    mask: Tensor  # (R, 1, W, W) bool
    row: Tensor  # (N,) for the N places that count: their row and column in `tokens`
    column: Tensor
    counts: Tensor  # (B, T) bool: the N places in the whole batch


def plan(batch: Batch, *, share: bool) -> Plan:
    """`share`: lay the chosen and the rejected row of a pair into one, behind the prompt that they have in common."""
    counts = batch["loss_mask"] > 0
    row, column = counts.nonzero(as_tuple=True)
    used = (batch["doc_id"] >= 0).sum(-1)
    if share and _in_pairs(batch):
        return _shared(batch, used, row, column, counts)
    if (short := _laid_again(batch, counts)) is not None:
        return short
    width = max(1, int(used.max()))
    documents = batch["doc_id"][:, :width]
    causal = torch.ones(width, width, dtype=torch.bool, device=documents.device).tril()
    mask = ((documents[:, :, None] == documents[:, None, :]) & causal)[:, None]
    return Plan(batch["tokens"][:, :width], batch["positions"][:, :width], mask, row, column, counts)


def _laid_again(batch: Batch, counts: Tensor) -> Plan | None:
    """Packed documents in rows no wider than the longest one needs: attention costs the square of the width. None where that is
    more than half of the width that there is."""
    width = batch["tokens"].shape[1]
    documents = batch["doc_id"]
    before = F.pad(documents[:, :-1], (1, 0), value=-2)
    begins = ((documents != before) & (documents >= 0)).flatten()
    starts = begins.nonzero().flatten().tolist()
    number = begins.long().cumsum(0) - 1
    real = (documents >= 0).flatten()
    sizes = number[real].bincount(minlength=len(starts)).tolist()
    wide = -(-max(sizes, default=width) // 32) * 32
    if 2 * wide > width:
        return None
    rows: list[list[int]] = []
    room: list[int] = []
    for one in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):  # first fit, the longest first
        row = next((i for i, free in enumerate(room) if free >= sizes[one]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(wide)
        rows[row].append(one)
        room[row] -= sizes[one]
    source = torch.full((len(rows), wide), -1, dtype=torch.int64)
    for row, members in enumerate(rows):
        places = [place for one in members for place in range(starts[one], starts[one] + sizes[one])]
        source[row, : len(places)] = torch.tensor(places)
    source = source.to(documents.device)
    held, taken = source >= 0, source.clamp_min(0)
    owner = number[taken].where(held, -1)
    causal = torch.ones(wide, wide, dtype=torch.bool, device=documents.device).tril()
    mask = ((owner[:, :, None] == owner[:, None, :]) & causal)[:, None]
    where = torch.zeros_like(number)
    where[source[held]] = held.flatten().nonzero().flatten()
    counted = where[counts.flatten()]
    tokens, positions = batch["tokens"].flatten()[taken], batch["positions"].flatten()[taken]
    return Plan(tokens, positions, mask, counted // wide, counted % wide, counts)


def _in_pairs(batch: Batch) -> bool:
    """Whether the rows are pairs side by side, with one document each."""
    if "pair" not in batch or len(batch["pair"]) % 2 or int(batch["doc_id"].max()) > 0:
        return False
    return torch.equal(batch["pair"][0::2], batch["pair"][1::2])


def _shared(batch: Batch, used: Tensor, row: Tensor, column: Tensor, counts: Tensor) -> Plan:
    tokens, real = batch["tokens"], batch["doc_id"] >= 0
    same = (tokens[0::2] == tokens[1::2]) & real[0::2] & real[1::2]
    common = same.int().cumprod(-1).sum(-1)  # tokens that both rows begin with, (P,)
    first, second = used[0::2], used[1::2]
    place = torch.arange(max(1, int((first + second - common).max())), device=tokens.device)[None]
    behind = place - first[:, None] + common[:, None]  # where the second row's own tokens come from
    in_first, end = place < first[:, None], (first + second - common)[:, None]
    source = torch.where(in_first, place, behind).clamp_max(tokens.shape[1] - 1)

    def laid(x: Tensor) -> Tensor:
        return torch.where(in_first, x[0::2].gather(1, source), x[1::2].gather(1, source))

    part = torch.where(place < common[:, None], 0, torch.where(in_first, 1, 2))
    part = torch.where(place < end, part, 3)
    earlier = place[0][:, None] >= place[0][None]
    visible = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    pair, of_second = row // 2, row % 2 == 1
    moved = torch.where(of_second & (column >= common[pair]), column - common[pair] + first[pair], column)
    return Plan(laid(tokens), laid(batch["positions"]), (visible & earlier)[:, None], pair, moved, counts)
