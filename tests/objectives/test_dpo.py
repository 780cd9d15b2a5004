"""The likelihood term beside DPO (Pang et al. 2024, eq. 2), worked out by hand."""

import torch

from trivium.objectives import Dpo, dpo_loss
from trivium.types import Output


def test_the_likelihood_term_is_the_mean_per_token_of_the_chosen_reply():
    generator = torch.Generator().manual_seed(0)
    logp = -torch.rand(4, 6, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
    batch = {
        "loss_mask": mask.float(),
        "pair": torch.tensor([0, 0, 1, 1]),
        "label": torch.tensor([1, 0, 0, 1]),  # the second pair stands the other way round
        "ref_logp": -torch.rand(4, generator=generator, dtype=torch.float64),
    }
    rows = (logp * mask).sum(-1)
    chosen, rejected = torch.tensor([0, 3]), torch.tensor([1, 2])
    reference = batch["ref_logp"]
    plain = dpo_loss(rows[chosen], rows[rejected], reference[chosen], reference[rejected], 0.2).sum()
    likelihood = -(rows[0] / 3 + rows[3] / 4)
    assert torch.allclose(Dpo(0.2)(Output(logp=logp), batch).total, plain)
    assert torch.allclose(Dpo(0.2, nll=0.7)(Output(logp=logp), batch).total, plain + 0.7 * likelihood)
