"""Data that models write: the stage that asks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from trivium.recipe.base import Fraction, Name, StageBase, only
from trivium.recipe.teachers import Teacher
from trivium.recipe.units import Count

if TYPE_CHECKING:
    from trivium.recipe.verifiers import (
        VerifierBase as VerifierConfig,  # `recipe.models` says which there are
    )

PRINCIPLES = [
    "Point out where the reply is wrong, unclear or does not answer what was asked.",
    "Point out where the reply could help someone to do harm, or is rude or unfair.",
]


class SynthesizeStage(StageBase):
    """Has a teacher write training data, and keeps what a verifier accepts. The artifact is one of data like any other."""

    kind: Literal["synthesize"]
    formats: ClassVar[tuple[str, ...]] = ("conversations", "preferences", "documents")
    references: ClassVar[tuple[str, ...]] = ("data", "decontaminate")
    method: Literal["cot", "best_of_n", "self_instruct", "magpie", "preferences", "critique", "questions"]
    """cot: worked answers that the verifier accepts; best_of_n: the best reply to each prompt; self_instruct: new
    instructions and replies (Wang et al. 2023); magpie: the teacher writes the user's turn, too, out of nothing but its template
    (Xu et al. 2024): what it could do before, to show again; preferences: the best reply against the worst; critique: a reply,
    its critique by `principles`, a revision (Bai et al. 2022); questions: about documents, each answered by a sentence of theirs,
    kept if the text bears it out."""
    data: Name | None = only(
        None, {"method": ["cot", "best_of_n", "self_instruct", "preferences", "critique", "questions"]}
    )
    """A data stage (conversations or preferences) whose prompts are asked; self_instruct's seeds; questions: one of documents;
    magpie has none."""
    teacher: Teacher
    verifier: VerifierConfig | None = only(
        None, {"method": ["cot", "best_of_n", "self_instruct", "magpie", "preferences", "critique"]}
    )
    prompts: Annotated[Count, Field(gt=0)] = 1000
    """Training prompts asked (self_instruct, magpie: instructions wanted; questions: sentences asked about, at most). Held-out
    prompts come on top, by `heldout`."""
    samples: Annotated[int, Field(gt=0)] = only(
        4, {"method": ["cot", "best_of_n", "preferences", "questions"]}
    )
    """Replies asked for each prompt, or questions about each sentence."""
    keep: Annotated[int, Field(gt=0)] = only(1, {"method": ["cot", "best_of_n", "questions"]})
    """Different replies kept of each prompt, or questions about each sentence, the best first."""
    begun: Annotated[int, Field(ge=0, le=4)] = only(0, {"method": ["questions"]})
    """questions: so many rows more for each sentence that is asked about, which give its beginning (of different lengths) and
    want the whole: who has seen a fact in one form only does not find it from another (Allen-Zhu and Li 2023)."""
    chosen: Literal["sampled", "given"] = only("sampled", {"method": ["preferences"]})
    """preferences: what the worst reply stands against: the best of the teacher's own, or the answer that `data` holds (if it
    scores more)."""
    accept: float | None = only(
        None, {"verifier": "set", "method": ["cot", "best_of_n", "self_instruct", "magpie", "critique"]}
    )
    """Least score of a reply that is kept; None: 1 for cot, and whatever is best otherwise."""
    margin: Annotated[float, Field(ge=0)] = only(0.0, {"method": ["preferences"]})
    """preferences: the best reply must score more than this above the worst."""
    instruction: str | None = None
    """A system message for the teacher alone; what is kept does not hold it. None: the method's own, if it has one;
    empty: none."""
    principles: Annotated[list[str], Field(min_length=1)] = only(PRINCIPLES, {"method": ["critique"]})
    """critique: each item is critiqued by one of these, in turn."""
    diversity: Annotated[float, Field(gt=0, le=1)] = only(
        0.7, {"method": ["self_instruct", "magpie", "questions"]}
    )
    """An instruction whose ROUGE-L with any other (a question: with one about the same sentence) is at or above this is
    dropped."""
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = only(1.0, {"temperature": "set"})
    max_new_tokens: Annotated[int, Field(gt=0)] = 256
    heldout: Fraction = 0.05
    """Share of held-out items: prompts that `data` holds out stay held out here. questions: share of the questions, about
    sentences that others are trained on."""
    dedup: bool = True
    decontaminate: list[Name] = []
    """Further data stages whose held-out items must not be seen in the training split; `data` itself is always one."""
    ngram: Annotated[int, Field(ge=3)] = 13

    @model_validator(mode="after")
    def _whom_it_asks(self) -> SynthesizeStage:
        if self.method == "magpie" and self.teacher.kind != "checkpoint":
            raise ValueError(
                "magpie begins in the middle of the template, which a server does not let it: name a `checkpoint` as teacher"
            )
        if self.method != "magpie" and self.data is None:
            raise ValueError(
                f"{self.method} needs `data`, the stage whose prompts or documents the teacher is given"
            )
        return self

    @property
    def takes(self) -> tuple[str, ...]:
        return ("documents",) if self.method == "questions" else ("conversations", "preferences")

    @property
    def format(self) -> str:
        """What the artifact holds."""
        return "preferences" if self.method == "preferences" else "conversations"
