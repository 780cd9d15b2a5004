"""What a recipe may say. Light to import: the row of the table is made when a stage is carried out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from trivium.recipe.alignment import PreferenceStage


class CpoStage(PreferenceStage):
    """Contrastive preference optimisation, Xu et al. 2024: no reference; the chosen reply is kept likely."""

    kind: Literal["cpo"]
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Scale of the difference in log-probability."""

    @classmethod
    def implementation(cls) -> Any:
        from trivium.batches.context import Phase
        from trivium.batches.offline import pairs
        from trivium_cpo.objective import Cpo

        return Phase(cls, pairs, lambda config: Cpo(config.beta))
