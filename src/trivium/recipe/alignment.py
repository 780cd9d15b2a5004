"""Step 4: alignment."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trivium.recipe.base import Name, Strict, how, only
from trivium.recipe.kinds import Group
from trivium.recipe.network import ModelShape
from trivium.recipe.parallel import Parallel
from trivium.recipe.training import Aligned, Rows, TrainingStage
from trivium.recipe.verifiers import VerifierName


class PreferenceStage(Aligned):
    """Fields of the alignment phases."""

    formats: ClassVar[tuple[str, ...]] = ("preferences",)
    rows: ClassVar[Rows] = "pairs"
    allow_base: bool = False
    """Align straight on a pre-trained base, without supervised fine-tuning in between."""


class DpoStage(PreferenceStage):
    """Direct preference optimisation against a frozen reference (its `init`), Rafailov et al. 2023."""

    kind: Literal["dpo"]
    when: ClassVar[str] = (
        "with pairs of a better and a worse reply, after fine-tuning; the first to try. It needs "
        "no reward model: the pairs are the reward."
    )
    forwards: ClassVar[int] = 4
    frozen_reference: ClassVar[bool] = True
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull towards the reference: larger stays closer."""
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """sigmoid: the paper's; ipo: Azar et al. 2023; hinge: Zhao et al. 2023."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = only(0.0, {"loss": ["sigmoid"]})
    """sigmoid only: share of the pairs that are taken to be labelled the wrong way round (conservative DPO, Mitchell 2023)."""
    length_normalised: bool = only(False, {"loss": ["sigmoid", "hinge"]})
    """sigmoid, hinge: log-probabilities per token instead of per reply, so that length alone is no reward; ipo always does."""
    nll: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the chosen reply's mean negative log-likelihood beside the DPO loss (Pang et al. 2024; 0 is plain DPO)."""


class OrpoStage(PreferenceStage):
    """Odds-ratio preference optimisation, Hong et al. 2024: no reference, and a base checkpoint will do."""

    kind: Literal["orpo"]
    when: ClassVar[str] = (
        "with pairs and no fine-tuned model, or no memory for a reference: one stage for form and preference."
    )
    allow_base: bool = True
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the odds-ratio term beside the likelihood of the chosen reply (lambda in the paper)."""


class SimpoStage(PreferenceStage):
    """Simple preference optimisation, Meng et al. 2024: no reference; length alone is no reward; a margin to reach."""

    kind: Literal["simpo"]
    when: ClassVar[str] = "as dpo, where a reference is too dear or replies grow longer and longer."
    beta: Annotated[float, Field(gt=0)] = 2.0
    """Scale of the difference in log-probability per token; the paper takes 2 to 10."""
    gamma: Annotated[float, Field(ge=0)] = 1.0
    """Margin that the scaled difference should reach; the paper takes about half of `beta`."""


class KtoStage(PreferenceStage):
    """Kahneman-Tversky optimisation, Ethayarajh et al. 2024: single replies marked good or bad; pairs give one of each."""

    kind: Literal["kto"]
    when: ClassVar[str] = "with single replies marked good or bad, such as thumbs, and no pairs."
    version: ClassVar[int] = 3
    formats: ClassVar[tuple[str, ...]] = ("feedback", "preferences")
    rows: ClassVar[Rows] = "marked"
    forwards: ClassVar[int] = 5
    frozen_reference: ClassVar[bool] = True
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull towards the reference."""
    desirable: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the good replies; with `undesirable` it makes up for labels out of balance (paper, section 4.2)."""
    undesirable: Annotated[float, Field(gt=0)] = 1.0


class UnlearnStage(Aligned):
    """Forgetting a part of the training data without retraining, Jang et al. 2023, Zhang et al. 2024; the rest is kept."""

    kind: Literal["unlearn"]
    when: ClassVar[str] = (
        "when a part of the training data has to go and retraining is too dear. It makes text unlikely, which is not the same as "
        "never having read it: `withdraw --apply` and another run is."
    )
    formats: ClassVar[tuple[str, ...]] = ("documents", "conversations")
    rows: ClassVar[Rows] = "pairs"
    forwards: ClassVar[int] = 4
    frozen_reference: ClassVar[bool] = True
    data: Name
    """What the model was trained on; `by` and `forget` say which part of its training split goes, the rest is the retain set."""
    by: Literal["source", "document", "licence", "url"] = "source"
    """How `forget` says it, as for `trivium withdraw`: a source by its kind, origin or file; one document by its key; all under a
    licence (`unknown` for none); all whose URL begins so."""
    forget: Annotated[str, Field(min_length=1)]
    """What is to be forgotten: the name, key, licence or beginning of a URL."""
    loss: Literal["npo", "gradient_ascent"] = "npo"
    """npo: negative preference optimisation, which stops by itself (Zhang et al. 2024); gradient_ascent: on the forgotten rows'
    own loss (Jang et al. 2023), which goes on until nothing is left, so few steps and a small `lr`."""
    beta: Annotated[float, Field(gt=0)] = only(0.1, {"loss": ["npo"]})
    """npo only: how soon a forgotten row is left alone; towards 0 it is gradient ascent."""
    retain: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the next-token loss on a row that is kept, beside each that is forgotten."""


class RewardStage(PreferenceStage):
    """A reward model by Bradley-Terry on preference pairs, for ppo, grpo and best-of-n."""

    kind: Literal["reward"]
    when: ClassVar[str] = (
        "when replies must be scored that no rule can check: for ppo, grpo, or the best of n. "
    )
    scalar: ClassVar[bool] = True
    margin: Annotated[float, Field(ge=0)] = 0.0
    """How far apart the two replies of a pair should be, at least."""
    centring: Annotated[float, Field(ge=0)] = 0.01
    """Pull of the rewards towards 0, which Bradley-Terry leaves open (Eisenstein et al. 2023)."""


class RolloutServer(Strict):
    """A server that writes the rollouts, on devices of its own: vLLM or SGLang, or any that speaks OpenAI's protocol and
    gives token ids (`return_tokens_as_token_ids`) with log-probabilities at temperature 1."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    """The address before `/completions`, such as http://localhost:8000/v1."""
    model: str
    """What the server calls the policy."""
    reload: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Where the folder of the newest weights is posted as `{"model_path": FOLDER}` before each set, such as SGLang's
    http://localhost:30000/update_weights_from_disk; the server must see this disk. None: the server keeps the weights it has,
    and importance weights make up for the difference as far as `importance_weight_cap` lets them."""
    key: str | None = how(None)
    """Name of the environment variable that holds the API key."""
    timeout: Annotated[float, Field(gt=0)] = how(600.0)
    """Seconds that one request may take."""
    retries: Annotated[int, Field(ge=0)] = how(6)
    parallel: Annotated[int, Field(gt=0)] = how(64)
    """Requests under way at once."""


class OnlineStage(PreferenceStage):
    """Fields of the phases that train on the policy's own replies. A step holds `batch` replies."""

    references: ClassVar[tuple[str, ...]] = ("init", "data", "tokenizer", "reward_model")
    formats: ClassVar[tuple[str, ...]] = ("conversations",)
    rows: ClassVar[Rows] = "rollouts"
    frozen_reference: ClassVar[bool] = True
    reward_model: Name | None = None
    """The reward stage that scores replies."""
    named_kinds: ClassVar[dict[str, Group]] = {"reward": "trivium.verifiers"}
    reward: VerifierName | None = None
    """A verifier that scores replies: `reasoning`, reasoning-gym's checkers; `exact`, equality with the record's own answer;
    `math`, the same by algebra; or one of a package."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 64
    """Longest reply."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    minibatches: Annotated[int, Field(gt=0)] = 1
    """A set of rollouts holds this many batches."""
    updates: Annotated[int, Field(gt=0)] = 1
    """How often each set is gone through."""
    clip_epsilon: Annotated[float, Field(gt=0)] = 0.2
    """How far a token's probability may move from that at its rollout, as a share of it, before its gradient stops. The norm of
    the whole gradient is another matter: `max_grad_norm`."""
    unfinished: Annotated[float, Field(ge=0)] = 0.0
    """Taken off the reward of a reply that ran into `max_new_tokens`."""
    staleness: Annotated[int, Field(ge=0)] = 0
    """Sets are made from the weights of this many sets ago, so that generating and training can overlap."""
    stop_without_signal: Annotated[int, Field(gt=0)] | None = how(None)
    """So many sets in a row in which no reply is worth more than another (to its prompt, with groups) end the stage with an
    error: nothing is learned from them. None: a warning after the first three."""
    rollout_device: str | None = only(None, {"staleness": "set"}, identity=False)
    """The device (`cuda:1`) on which sets are made ahead while training goes on; with `staleness` of 1 or more."""
    importance_weight_cap: Annotated[float, Field(gt=0)] = 2.0
    """Importance weights of the trainer's against the sampler's probabilities are cut at this."""
    rollout_server: RolloutServer | None = None
    """A server that writes the rollouts; None: the trainer writes them itself. With `staleness` it writes the next sets while
    this one is trained on."""

    @property
    def repeats(self) -> int:
        return self.updates

    @property
    def period(self) -> int:
        return self.minibatches * self.updates


class PpoStage(OnlineStage):
    """Proximal policy optimisation against a reward model, Schulman et al. 2017; Ouyang et al. 2022."""

    kind: Literal["ppo"]
    when: ClassVar[str] = (
        "with a reward for whole replies and compute to spare: the policy writes, a critic says "
        "how good each token is. Try dpo and grpo first."
    )
    forwards: ClassVar[int] = 11
    """Three for the policy and three for the critic that learns beside it; a reply is written, and scored by the policy, the
    reference, the critic and a reward model."""
    kl: Annotated[float, Field(ge=0)] = 0.05
    """Price of a nat of distance from the reference, taken off each token's reward."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Lambda of generalised advantage estimation."""
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    value_weight: Annotated[float, Field(ge=0)] = 0.1
    entropy_weight: Annotated[float, Field(ge=0)] = 0.0
    share_trunk: bool = False
    """The critic is a head on the policy's own trunk: half the memory, and the two pull at the same weights."""
    whiten: bool = True
    """Advantages with mean 0 and deviation 1 over the set."""


class GrpoStage(OnlineStage):
    """Group-relative policy optimisation, Shao et al. 2024: groups of replies to a prompt instead of a critic."""

    kind: Literal["grpo"]
    when: ClassVar[str] = (
        "where a reply can be checked (sums, code, formats) or scored: a group of replies to one "
        "question is its own baseline, and no critic is needed."
    )
    forwards: ClassVar[int] = 6
    group: Annotated[int, Field(ge=2)] = 8
    """Replies to each prompt; must divide `batch`."""
    loss: Literal["grpo", "dapo", "dr_grpo"] = "dapo"
    """How tokens are averaged: within each reply, over all (Yu et al. 2025), or over the longest length (Liu et al. 2025)."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the distance from the reference in the loss; with 0 the reference is there for the log alone."""
    clip_epsilon_high: Annotated[float, Field(gt=0)] | None = None
    """The clip on the upper side where it differs (DAPO's clip-higher)."""
    skip_truncated: bool = False
    """Replies that ran into `max_new_tokens` teach nothing (DAPO's overlong filtering)."""

    @property
    def repeats(self) -> int:
        return self.group * self.updates


class DistillStage(TrainingStage):
    """Learning from a teacher's probabilities, Hinton et al. 2015; with the student's own replies, Agarwal et al. 2024."""

    kind: Literal["distill"]
    when: ClassVar[str] = (
        "to teach a small model what a larger one knows: more signal a token than its replies alone."
    )
    formats: ClassVar[tuple[str, ...]] = ("conversations",)
    rows: ClassVar[Rows] = "taught"
    forwards: ClassVar[int] = 4
    needs_init: ClassVar[bool] = False
    references: ClassVar[tuple[str, ...]] = ("init", "data", "teacher")
    teacher: Name
    """The checkpoint that is learned from."""
    match: Literal["ids", "text"] = "ids"
    """ids: the teacher gives the student's tokens the same ids; rows of embeddings beyond them do not matter. text: it may have
    another tokenizer. The replies' text is compared, span by span where tokens of both begin and end alike, with the
    probabilities of a span's pieces multiplied: tokens that both have by name, the others by size (Boizard et al. 2024)."""
    init: Name | None = None
    """The student to start from: weights only. Without it a new one of the shape `model`."""
    model: ModelShape = only(ModelShape(), {"init": "unset"})
    """Shape of a new student; read where there is no `init`."""
    data: Name
    """Conversations: the assistant's tokens count."""
    divergence: Literal["forward", "reverse", "js"] = only("forward", {"share": "set"})
    distill_temperature: Annotated[float, Field(gt=0)] = only(1.0, {"share": "set"})
    """Both distributions are softened by this."""
    mix: Annotated[float, Field(gt=0, lt=1)] = only(0.5, {"divergence": ["js"], "share": "set"})
    """js only: the teacher's share of the mixture."""
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the divergence in the loss; the rest is the likelihood of the data."""
    teacher_top: Annotated[int, Field(ge=1)] | None = only(None, {"match": ["ids"], "share": "set"})
    """Only so many of the teacher's likeliest tokens are told apart at each place; all others count together, by their mass. They
    are kept in a file, so that the teacher reads each row once, whatever the epochs. None: all tokens, read at every step."""
    on_policy: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the steps that train on the student's own replies."""
    max_new_tokens: Annotated[int, Field(gt=0)] = only(64, {"on_policy": "set"})
    """Longest of those replies."""

    @model_validator(mode="after")
    def _whole_texts(self) -> Self:
        if self.teacher_top is not None and self.on_policy:
            raise ValueError(
                "`teacher_top` keeps what is read again; the student's own replies (`on_policy`) never are"
            )
        if self.match == "text" and self.on_policy:
            raise ValueError("the student's own replies (`on_policy`) are compared with `match: ids` only")
        if self.match == "text" and isinstance(self.parallel, Parallel) and self.parallel.context > 1:
            raise ValueError(
                "`match: text` compares whole spans of a row, which `parallel.context` would cut"
            )
        return self
