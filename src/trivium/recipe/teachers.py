"""Models that write data, or grade it: checkpoints of the recipe, and servers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trivium.recipe.base import Name, Strict, how, only


class CheckpointTeacher(Strict):
    """A checkpoint of this recipe."""

    kind: Literal["checkpoint"]
    references: ClassVar[tuple[str, ...]] = ("model",)
    model: Name
    device: Literal["auto", "cpu", "cuda"] = how("auto")


class OpenaiTeacher(Strict):
    """Any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, a hosted model."""

    kind: Literal["openai"]
    url: Annotated[str, Field(pattern=r"^https?://")]
    """The address before `/chat/completions`, such as http://localhost:8000/v1."""
    model: str
    """What the server calls the model."""
    key: str | None = how(None)
    """Name of the environment variable that holds the API key; never the key itself."""
    timeout: Annotated[float, Field(gt=0)] = how(120.0)
    """Seconds that one request may take."""
    retries: Annotated[int, Field(ge=0)] = how(6)
    parallel: Annotated[int, Field(gt=0)] = how(8)
    """Requests under way at once."""
    per_minute: Annotated[float, Field(gt=0)] | None = how(None)
    """Requests started in a minute, at most."""
    price_in: Annotated[float, Field(ge=0)] = how(0.0)
    """Price of a million tokens of prompts, in any currency."""
    price_out: Annotated[float, Field(ge=0)] = how(0.0)
    """Price of a million tokens of replies."""
    budget: Annotated[float, Field(gt=0)] | None = only(
        None, {"price_in": "set"}, {"price_out": "set"}, identity=False
    )
    """In that currency: the run stops where it is spent, and goes on from there with a larger one."""


Teacher = Annotated[CheckpointTeacher | OpenaiTeacher, Field(discriminator="kind")]
