"""Data that models write: teachers, what checks them, and the stage that asks them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trivium.recipe.base import Fraction, Name, StageBase, Strict, how
from trivium.recipe.units import Count


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
    price_in: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million tokens of prompts, in any currency."""
    price_out: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million tokens of replies."""
    budget: Annotated[float, Field(gt=0)] | None = how(None)
    """In that currency: the run stops where it is spent, and goes on from there with a larger one."""


Teacher = Annotated[CheckpointTeacher | OpenaiTeacher, Field(discriminator="kind")]


class ReasoningVerifier(Strict):
    """reasoning-gym's own checkers: 1 for a right answer to one of its tasks, else 0."""

    kind: Literal["reasoning"]


class ExactVerifier(Strict):
    """1 where the reply's final answer (after `Answer:`, `####` or in `\\boxed{}`) is the record's own, else 0."""

    kind: Literal["exact"]


class FunctionVerifier(Strict):
    """A function of yours, run in a process of its own: `def score(record, reply)` gives a number from 0 to 1."""

    kind: Literal["function"]
    path: str
    """The Python file, relative to the recipe; its bytes are part of the stage's identity."""
    name: str = "score"
    seconds: Annotated[float, Field(gt=0)] = 5.0
    """Wall clock and CPU that a call may take; one that takes longer scores 0."""
    memory: Annotated[Count, Field(ge=1 << 26)] = 1 << 30
    """Bytes of memory that its process may have."""


class JudgeVerifier(Strict):
    """A model that grades replies from 1 to 10 (as 0 to 1); pairs are asked about in both orders."""

    kind: Literal["judge"]
    teacher: Teacher
    criterion: str = "correct, to the point and helpful"


class RewardVerifier(Strict):
    """A reward stage's model; its rewards have no fixed range, so set `accept` to fit, or rank only."""

    kind: Literal["reward_model"]
    references: ClassVar[tuple[str, ...]] = ("reward_model",)
    reward_model: Name


VerifierConfig = Annotated[
    ReasoningVerifier | ExactVerifier | FunctionVerifier | JudgeVerifier | RewardVerifier,
    Field(discriminator="kind"),
]

PRINCIPLES = [
    "Point out where the reply is wrong, unclear or does not answer what was asked.",
    "Point out where the reply could help someone to do harm, or is rude or unfair.",
]


class SynthesizeStage(StageBase):
    """Has a teacher write training data, and keeps what a verifier accepts. The artifact is one of data like any other."""

    kind: Literal["synthesize"]
    formats: ClassVar[tuple[str, ...]] = ("conversations", "preferences")
    references: ClassVar[tuple[str, ...]] = ("data", "decontaminate")
    method: Literal["cot", "best_of_n", "self_instruct", "preferences", "critique"]
    """cot: worked answers that the verifier accepts; best_of_n: the best reply to each prompt; self_instruct: new
    instructions and replies (Wang et al. 2023); preferences: the best reply against the worst; critique: a reply, its
    critique by `principles`, a revision (Bai et al. 2022)."""
    data: Name
    """A data stage (conversations or preferences) whose prompts are asked; self_instruct's seeds."""
    teacher: Teacher
    verifier: VerifierConfig | None = None
    prompts: Annotated[Count, Field(gt=0)] = 1000
    """Training prompts asked (self_instruct: instructions wanted). Held-out prompts come on top, by `heldout`."""
    samples: Annotated[int, Field(gt=0)] = 4
    """Replies asked for each prompt."""
    keep: Annotated[int, Field(gt=0)] = 1
    """cot and best_of_n: different replies kept of each prompt, the best first."""
    accept: float | None = None
    """Least score of a reply that is kept; None: 1 for cot, and whatever is best otherwise."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """preferences: the best reply must score more than this above the worst."""
    instruction: str | None = None
    """A system message for the teacher alone; what is kept does not hold it. None: the method's own, if it has one;
    empty: none."""
    principles: Annotated[list[str], Field(min_length=1)] = PRINCIPLES
    """critique: each item is critiqued by one of these, in turn."""
    diversity: Annotated[float, Field(gt=0, le=1)] = 0.7
    """self_instruct: an instruction whose ROUGE-L with any other is at or above this is dropped."""
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Annotated[int, Field(gt=0)] = 256
    heldout: Fraction = 0.05
    """Share of held-out items: prompts that `data` holds out stay held out here."""
    dedup: bool = True
    decontaminate: list[Name] = []
    """Further data stages whose held-out items must not be seen in the training split; `data` itself is always one."""
    ngram: Annotated[int, Field(ge=3)] = 13

    @property
    def format(self) -> str:
        """What the artifact holds."""
        return "preferences" if self.method == "preferences" else "conversations"
