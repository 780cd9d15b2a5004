"""lm-evaluation-harness as a library: its tasks, read without a network, and its model class over our own engine."""

from __future__ import annotations

import contextlib
import difflib
import io
import math
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from trivium.corpus import extras
from trivium.errors import DataError, TriviumError
from trivium.evaluate.subject import Subject
from trivium.generate.greedy import greedy
from trivium.generate.sampling import SamplingParams
from trivium.generate.scoring import Asked, score
from trivium.generate.slots import complete, cut_text

with extras.needed("eval", "lm-eval"):
    import datasets
    import huggingface_hub
    from lm_eval import utils
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.task import Task
    from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.tasks import TaskManager

MAX_NEW_TOKENS = 256
"""Of a reply whose task names no limit: the harness's own default."""
SEED = 1234
"""Of the draw of examples: the harness's own default."""
FILES = (".yaml", ".yml")


class Engine(TemplateLM):  # type: ignore[misc]
    """A checkpoint as the harness asks it. Text becomes ids as in the harness's own classes: the tokenizer's usual framing, and
    special tokens that a text spells are special."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject
        self.tokenizer = subject.chat.tokenizer

    @property
    def max_length(self) -> int:
        return self.subject.context

    @cached_property
    def _framing(self) -> tuple[int, int]:
        """(what stands before a text that has none before it, what ends a text)."""
        chat = self.subject.chat
        if chat.special is None:
            return chat.end, chat.end
        named = {name: self.tokenizer.token_to_id(token) for name, token in chat.special.as_config().items()}
        end, begin = named.get("eos_token"), named.get("bos_token")
        end = chat.end if end is None else end
        return end if begin is None else begin, end

    @property
    def eot_token_id(self) -> int:
        return self._framing[1]

    @property
    def prefix_token_id(self) -> int:
        return self._framing[0]

    @property
    def tokenizer_name(self) -> str:
        return self.subject.name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.subject.chat.template if chat_template else ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        framed = add_special_tokens
        if framed is None:
            begin = self.tokenizer.decode([self.prefix_token_id], skip_special_tokens=False)
            framed = not has_bos_prefix(string, begin)
        return list(self.tokenizer.encode(string, add_special_tokens=framed).ids)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text. Without `add_generation_prompt` its last turn is the beginning of the reply."""
        turns, begun = (
            (chat_history, "") if add_generation_prompt else (chat_history[:-1], chat_history[-1]["content"])
        )
        ids = self.subject.chat.prompt(turns)
        return str(self.tokenizer.decode(ids, skip_special_tokens=False)) + begun

    def pair(self, instance: Instance) -> tuple[list[int], list[int]]:
        """(ids that the model is given, ids that are scored) of a request for a log-likelihood, as the harness cuts them."""
        context, continuation = instance.args
        if context:
            before, behind = self._encode_pair(context, continuation)
            return list(before), list(behind)
        behind = self.tok_encode(continuation, add_special_tokens=False)
        if behind[:1] == [self.prefix_token_id]:
            return behind[:1], behind[1:]
        return [self.prefix_token_id], behind

    def given(self, instance: Instance) -> list[int]:
        """The ids that the model is given first in answering a request."""
        if instance.request_type == "loglikelihood":
            return self.pair(instance)[0]
        if instance.request_type == "loglikelihood_rolling":
            return [self.prefix_token_id]
        return self.tok_encode(instance.args[0])

    def unfit(self, instance: Instance) -> str:
        """Why a request cannot be asked whole; empty where it can. The harness would cut it."""
        if instance.request_type == "loglikelihood":
            before, behind = self.pair(instance)
            if not behind:
                return "a continuation has no tokens of its own"
            long = len(before) + len(behind) - 1
            said = f"prompt and continuation have {long} tokens"
        elif instance.request_type == "generate_until":
            long = len(self.given(instance)) + 1
            said = f"the prompt has {long - 1} tokens"
        else:
            return "" if self.tok_encode(instance.args[0]) else "the text is empty"
        return f"{said}, the context is {self.max_length}" if long > self.max_length else ""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._loglikelihood_tokens([((), *self.pair(instance)) for instance in requests])

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Of (anything, ids before, ids behind): (log p in nats, whether greedy decoding would say it)."""
        asked = []
        for _name, before, behind in requests:
            ids = [*before, *behind][-(self.max_length + 1) :]
            asked.append(Asked(ids, len(ids) - len(behind)))
        return [(found.logp, found.greedy) for found in score(self.subject.model, asked)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts, in windows of the context that overlap by one token, as the harness cuts them."""
        windows: list[tuple[int, Any]] = []
        for number, instance in enumerate(requests):
            cut = utils.get_rolling_token_windows(
                token_list=self.tok_encode(instance.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            windows += [(number, ((), *utils.make_disjoint_window(window))) for window in cut]
        found = self._loglikelihood_tokens([window for _, window in windows])
        totals = [0.0] * len(requests)
        for (number, _), (logp, _greedy) in zip(windows, found, strict=True):
            totals[number] += logp
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Replies, cut before the first of the task's `until`; of those with the same limits the n-th draws the n-th stream."""
        groups: dict[SamplingParams, list[int]] = {}
        for number, instance in enumerate(requests):
            groups.setdefault(_sampling(instance.args[1]), []).append(number)
        replies = [""] * len(requests)
        chat = self.subject.chat
        for sampling, numbers in groups.items():
            prompts = [self.tok_encode(requests[n].args[0]) for n in numbers]
            if sampling.temperature == 0:
                texts = greedy(self.subject.model, prompts, sampling, frozenset(chat.stops), chat.decode)
            else:
                done = complete(self.subject.model, prompts, sampling, chat.stops, decode=chat.decode)
                texts = [cut_text(chat.decode(reply.ids), sampling.stop_strings) for reply in done]
            for number, text in zip(numbers, texts, strict=True):
                replies[number] = postprocess_generated_text(text, None, None)
        return replies


def _sampling(given: dict[str, Any]) -> SamplingParams:
    kwargs = normalize_gen_kwargs(given, MAX_NEW_TOKENS)
    until = kwargs.get("until") or []
    drawn = bool(kwargs.get("do_sample"))
    return SamplingParams(
        temperature=float(kwargs.get("temperature") or 1.0) if drawn else 0.0,
        top_p=float(kwargs.get("top_p", 1.0)),
        top_k=int(kwargs.get("top_k", 0)),
        max_new_tokens=int(kwargs["max_gen_toks"]),
        stop_strings=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
    )


@contextlib.contextmanager
def quiet_and_offline() -> Iterator[None]:
    """Nothing is fetched inside, and the harness's bars and warnings are not shown."""
    libraries: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [library.HF_HUB_OFFLINE for library in libraries]
    try:
        for library in libraries:
            library.HF_HUB_OFFLINE = True
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for library, value in zip(libraries, before, strict=True):
            library.HF_HUB_OFFLINE = value


@lru_cache(maxsize=1)
def _manager() -> TaskManager:
    return TaskManager()


def load(task: str, folder: Path, examples: int | None) -> dict[str, Task]:
    """The tasks that a name of the harness stands for (a group has several), or that of a YAML file, its path and those of its
    data seen from `folder` and from the file. `examples`: how many a prompt begins with; None: as many as the task says.

    DataError, naming the task, if there is none of that name, if its data are not on this machine, or if it cannot be asked here.
    """
    where = str(folder / task) if task.endswith(FILES) else f"task {task!r} of lm-evaluation-harness"
    try:
        with quiet_and_offline():
            found = _found(task, folder)
            for one in found.values():
                if examples is not None:
                    one.set_config("num_fewshot", examples)
                one.set_fewshot_seed(SEED)
    except TriviumError:
        raise
    except Exception as error:  # a task is a program of its own: it may raise anything
        raise DataError(
            f"a task of the suite harness cannot be loaded without a network: {_said(error)}",
            where=where,
            fix="load its data set once where there is a network (`datasets.load_dataset`), or write a task file "
            "whose `dataset_kwargs: {data_files: ...}` are on this machine",
        ) from None
    for name, one in found.items():
        why = "it runs code that the model writes" if getattr(one, "UNSAFE_CODE", False) else ""
        why = "it shows images or plays sounds" if getattr(one, "MULTIMODAL", False) else why
        if why:
            raise DataError(f"task {name} cannot be asked here: {why}", where=where, fix="take another task")
    return found


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _found(task: str, folder: Path) -> dict[str, Task]:
    if task.endswith(FILES):
        path = folder / task
        if not path.is_file():
            raise DataError(
                "the task file does not exist", where=str(path), fix="paths are from the recipe's folder"
            )
        manager = TaskManager(include_defaults=False)
        with contextlib.chdir(path.parent):  # where the paths of its data begin
            return dict(manager.load([path.name])["tasks"])
    manager = _manager()
    if task not in manager.all_tasks:
        near = difflib.get_close_matches(task, manager.all_tasks, 3)
        raise DataError(
            f"lm-evaluation-harness has no task {task!r}",
            fix=f"near: {', '.join(near)}" if near else "give the path of a task file (.yaml)",
        )
    return dict(manager.load([task])["tasks"])


def requests(task: Task, chosen: Sequence[int], engine: Engine | None) -> dict[int, list[Instance]]:
    """The requests of the documents `chosen` (ascending places), through the chat template of `engine` where it is given."""
    with quiet_and_offline():
        task.set_fewshot_seed(SEED)
        task.build_all_requests(
            samples=set(chosen),
            apply_chat_template=engine is not None,
            fewshot_as_multiturn=engine is not None,
            chat_template=engine.apply_chat_template if engine else None,
        )
    result: dict[int, list[Instance]] = {}
    for instance in task.instances:
        result.setdefault(chosen[instance.doc_id], []).append(instance)
    return result


def answered(engine: Engine, instances: Sequence[Instance]) -> None:
    """Asks the requests, each as often as it says, and lays the answers into them."""
    kinds: dict[str, list[Instance]] = {}
    for instance in instances:
        instance.resps = []
        kinds.setdefault(instance.request_type, []).extend([instance] * instance.repeats)
    for kind, several in kinds.items():
        for instance, found in zip(several, getattr(engine, kind)(several), strict=True):
            instance.resps.append(found)


def measured(task: Task, instances: Sequence[Instance]) -> dict[str, Any]:
    """What the task says of one document's answers: "METRIC" of its first filter, "METRIC,FILTER" of each."""
    ordered = sorted(instances, key=lambda instance: instance.idx)
    result: dict[str, Any] = {}
    for ensemble in task._filters:
        ensemble.apply(ordered)
        found = task.process_results(ordered[0].doc, [one.filtered_resps[ensemble.name] for one in ordered])
        for metric, value in found.items():
            result.setdefault(metric, value)
            result[f"{metric},{ensemble.name}"] = value
    return result


def aggregation(task: Task, metric: str) -> str:
    """How the harness makes a figure of the documents' values: the function's name; empty where the task has no such metric."""
    known = task.aggregation()
    filters = [ensemble.name for ensemble in task._filters]
    base, _, named = metric.partition(",")
    if base not in known or (named and named not in filters):
        return ""
    return str(getattr(known[base], "__name__", known[base]))


def names(task: Task) -> list[str]:
    """The metrics that a task has and that are made of values of single documents."""
    filters = [ensemble.name for ensemble in task._filters]
    every = [base if len(filters) == 1 else f"{base},{one}" for base in task.aggregation() for one in filters]
    return [name for name in every if aggregation(task, name) in FORMS]


FORMS = ("mean", "bits_per_byte")
"""Aggregations that the table of rows can repeat."""


def value_of(how: str, value: Any) -> tuple[float, float]:
    """(score, weight) of a document's value: bits and bytes of `bits_per_byte`, otherwise the value itself."""
    if how == "bits_per_byte":
        logp, size = value
        return -float(logp) / math.log(2), float(size)
    return float(value), 1.0
