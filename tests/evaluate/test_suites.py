"""The suites on small random models: the numbers are what another library computes from the same files."""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
from collections import Counter
from itertools import islice

import pytest
import torch
from chat_server import chat_of, raw, send, status
from fake_garak import stand_in
from hypothesis import given
from hypothesis import strategies as st

from trivium.corpus.canaries import made
from trivium.corpus.canaries import write as write_canaries
from trivium.demo import primer, reasoning, refusals
from trivium.errors import ArtifactError, DataError, TriviumError
from trivium.evaluate import garak
from trivium.evaluate import rows as table
from trivium.evaluate.asked import Answer, Item, in_proportion, told_of_all
from trivium.evaluate.judges import model as model_judges
from trivium.evaluate.metrics import evidence
from trivium.evaluate.rows import Journal, Verdict
from trivium.evaluate.run import Plan, evaluate, fill, rows_of, summary
from trivium.evaluate.subject import Subject
from trivium.evaluate.suites import SUITES, instructions
from trivium.generate.slots import Completion
from trivium.model import hf
from trivium.recipe.data import Canaries as CanariesBlock
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.suite import DataSuite, FileSuite
from trivium.recipe.suites import SUITES as MODELS
from trivium.recipe.teachers import OpenaiTeacher
from trivium.verify.judge import judging
from trivium.verify.replies import Reply

DOCUMENTS = ["the cat sees the red ball.", "a café in 東京, naïve 😀 and more of it " * 3, "x"]
TALKS = [
    [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sees the ball."}],
    [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "a dog"},
        {"role": "assistant", "content": "finds it"},
        {"role": "user", "content": "where"},
        {"role": "assistant", "content": "at noon."},
    ],
]


SIDES = [("the red ball is old", "the red ball is new"), ("a cat sees noon", "a dog sees noon")]
PUBLISHED = {
    "crows.csv": "sent_more,sent_less,bias_type\n" + "".join(f"{more},{less},age\n" for more, less in SIDES),
    "stereo.json": json.dumps(
        {
            "data": {
                "intrasentence": [
                    {
                        "id": str(n),
                        "bias_type": "race",
                        "target": "cat",
                        "sentences": [
                            {"sentence": text, "gold_label": label}
                            for text, label in (
                                (one, "stereotype"),
                                (other, "anti-stereotype"),
                                ("noon red x", "unrelated"),
                            )
                        ],
                    }
                    for n, (one, other) in enumerate(SIDES)
                ]
            }
        }
    ),
    "pro_stereotyped.txt": "[The cook] met the nurse because [he] saw.\nThe cook met [the nurse] because [she] saw.\n",
    "anti_stereotyped.txt": "[The cook] met the nurse because [she] saw.\nThe cook met [the nurse] because [he] saw.\n",
    "bbq.jsonl": "".join(
        json.dumps(
            {
                "question_index": str(n),
                "question_polarity": "neg",
                "context_condition": condition,
                "category": "Age",
                "answer_info": {"ans0": ["cat", "old"], "ans1": ["dog", "young"], "ans2": ["no", "unknown"]},
                "additional_metadata": {"stereotyped_groups": ["old"]},
                "context": f"{more}.",
                "question": "the red one?",
                "ans0": "the cat",
                "ans1": "the dog",
                "ans2": "noon",
                "label": 2,
            }
        )
        + "\n"
        for n, (more, _) in enumerate(SIDES)
        for condition in ("ambig", "disambig")
    ),
    "gone.jsonl": "".join(
        json.dumps({"key": str(n), "text": text, "other": n > 1}) + "\n"
        for n, text in enumerate([*SIDES[0], *SIDES[1]])
    ),
    "choose.yaml": """
task: choose
output_type: multiple_choice
dataset_path: json
dataset_kwargs: {data_files: {test: questions/heldout.jsonl}}
test_split: test
doc_to_text: "Question: {{question}}"
doc_to_target: answer
doc_to_choice: choices
""",
}
"""What suites of published files and tasks read, by its place in the folder that paths begin in."""
OWN_FILE = {
    "crows_pairs": {"path": "crows.csv"},
    "stereoset": {"path": "stereo.json"},
    "winobias": {"path": "pro_stereotyped.txt"},
    "bbq": {"path": "bbq.jsonl"},
    "harness": {"task": "choose.yaml"},
    "gcg": {"items": 2, "queries": 8, "candidates": 4, "tokens": 2},
    "withdrawn": {"path": "gone.jsonl"},
    "garak": {"probes": ["a.A"], "python": "fake_python"},
    "pairwise": {"judge": {"server": {"kind": "openai", "url": "http://127.0.0.1:1/v1", "model": "m"}}},
}


def pair(number: int) -> dict:
    prompt = [{"role": "user", "content": f"say {number}"}]
    return {"key": str(number), "prompt": prompt, "chosen": "it is here.", "rejected": "no", "meta": {}}


@pytest.fixture(scope="module")
def records():
    """What stands in a data artifact of each format; drawn once, since the generators read long lists of words."""
    tasks = list(islice(reasoning.records("conversations", ["spell_backward"], 1), 4))
    asked = list(refusals.records("conversations"))
    asked = asked[:3] + asked[-3:]
    return {
        "documents": [{"key": text, "text": text} for text in DOCUMENTS],
        "talks": [{"key": str(i), "messages": talk, "meta": {}} for i, talk in enumerate(TALKS)]
        + tasks
        + asked,
        "lessons": list(islice(primer.records("conversations", 7), 8)),
        "asked": [
            {
                "key": str(n),
                "messages": [{"role": "user", "content": f"the cat {n}"}],
                "meta": {"answer": "It sees the ball."},
            }
            for n in range(4)
        ],
        "pairs": [pair(number) for number in range(5)],
        "questions": [
            {"question": f"what is {n}?", "choices": ["a red ball", str(n), "nothing"], "answer": 1}
            for n in range(5)
        ],
    }


@pytest.fixture
def data(tmp_path, write_lines, monkeypatch, records):
    """One data artifact of each format, in the folder that paths of suites begin in."""
    monkeypatch.chdir(tmp_path)
    for name, values in records.items():
        write_lines(tmp_path / name / "heldout.jsonl", values)
    write_lines(tmp_path / "documents" / "train.jsonl", records["documents"])
    planted = made(CanariesBlock(count=2, repeats=[0, 4]), seed=1)
    write_canaries(tmp_path / "documents" / "canaries.jsonl", planted)
    for name, text in PUBLISHED.items():
        (tmp_path / name).write_text(text)
    probes = {"a.A": {"prompts": 2, "capped": True, "detectors": ["d.D"]}}
    stand_in(tmp_path, probes, [{"entry_type": "completion"}])  # it leaves no attempt
    monkeypatch.setattr(garak, "serving", lambda *given: contextlib.nullcontext("http://127.0.0.1:1"))
    return {name: tmp_path / name for name in records}


@pytest.fixture
def subject(checkpoint, chat):
    """A model under test in float32, so that the comparison is exact."""

    def make(name: str = "tested", **changes):
        folder = checkpoint(name, **changes)
        return Subject(name, folder, hf.load(folder).eval(), chat)

    return make


def suite(kind: str, data: str, **changes):
    """A suite on a data stage or a file; one that brings its own items asks a few of them."""
    home = {"items": 9}
    if issubclass(MODELS[kind], DataSuite):
        home = {"data": data}
    elif issubclass(MODELS[kind], FileSuite):
        home = {"path": f"{data}/heldout.jsonl"}
    home |= OWN_FILE.get(kind, {})
    return MODELS[kind](kind=kind, **{"max_new_tokens": 8, **home, **changes})


@pytest.fixture
def measure(data, tmp_path):
    """Asks a suite of a model and gives its rows and metrics: `measure(kind, data, subject, baseline)`."""

    def run(kind: str, name: str, tested: Subject, baseline: Subject | None = None, **changes):
        config = suite(kind, name, **changes)
        journal = Journal(tmp_path / f"rows-{len(list(tmp_path.iterdir()))}.jsonl")
        plan = Plan.make(config, data)
        for subject in (baseline, tested):
            if subject is not None:
                fill(journal, plan, subject, baseline)
        against = None if baseline is None else baseline.name
        found = {m.name: evidence(m, kind, journal.rows, tested.name, against) for m in config.metrics}
        return journal.rows, {name: one.estimate() for name, one in found.items() if one is not None}

    return run


@torch.no_grad()
def their_logp(folder, ids: list[int]) -> list[float]:
    """log p of every token but the first, from transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logp = model(torch.tensor([ids])).logits.double().log_softmax(-1)[0]
    return [float(logp[place, token]) for place, token in enumerate(ids[1:])]


def test_bits_per_byte_is_what_transformers_logits_give(subject, data, chat, measure):
    tested = subject()
    nats, size, context = 0.0, 0, tested.model.config.context
    for text in DOCUMENTS:
        ids = [*chat.tokenizer.encode(text).ids, chat.end_of_text][:context]
        nats -= sum(their_logp(tested.folder, ids))
        first = len(chat.tokenizer.id_to_token(ids[0]))  # a byte-level token has one letter a byte
        cut = sum(len(chat.tokenizer.id_to_token(i)) for i in ids if i != chat.end_of_text)
        assert cut == len(text.encode()) or len(ids) == context
        size += cut - first
    assert any(len(chat.tokenizer.encode(text).ids) > context for text in DOCUMENTS), "one must be cut"
    found = measure("bits_per_byte", "documents", tested)[1]["bits_per_byte"]
    assert found.value == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert (found.asked, found.clusters, found.undecided) == (3, 3, 0)


def test_response_loss_counts_the_assistants_tokens_alone(subject, data, chat, write_lines, measure):
    tested = subject()
    write_lines(data["talks"] / "heldout.jsonl", [{"messages": talk} for talk in TALKS])
    total, count = 0.0, 0
    for talk in TALKS:
        ids, counts = [], []
        for turn in talk:  # spelt out by hand, as the template documents it
            said = [*chat.tokenizer.encode(turn["content"]).ids, chat.end]
            ids += [chat.tokenizer.token_to_id(f"<|{turn['role']}|>"), *said]
            counts += [False, *[turn["role"] == "assistant"] * len(said)]
        logp = their_logp(tested.folder, ids)
        total -= sum(value for value, counted in zip(logp, counts[1:], strict=True) if counted)
        count += sum(counts[1:])
    found = measure("response_loss", "talks", tested)[1]["response_loss"]
    assert found.value == pytest.approx(total / count, rel=1e-5)


def test_preference_accuracy_is_the_share_of_implicit_margins_above_0(subject, data, chat, measure):
    tested, base = subject("tested"), subject("base", seed=8)

    def log_p(folder, number: int, reply: str) -> float:
        prompt = chat.prompt([{"role": "user", "content": f"say {number}"}])
        said = [*chat.tokenizer.encode(reply).ids, chat.end]
        return sum(their_logp(folder, [*prompt, *said])[-len(said) :])

    margins = []
    for number in range(5):
        gaps = [
            log_p(one.folder, number, "it is here.") - log_p(one.folder, number, "no")
            for one in (tested, base)
        ]
        margins.append(gaps[0] - gaps[1])
    found = measure("preferences", "pairs", tested, base)[1]
    assert found["preference_accuracy"].value == sum(margin > 0 for margin in margins) / 5
    assert {one.asked for one in found.values()} == {5}
    turned = measure("preferences", "pairs", base, tested)[1]["preference_accuracy"]
    assert turned.value == 1 - found["preference_accuracy"].value


def test_the_baseline_is_not_compared_with_itself(subject, measure):
    assert set(measure("preferences", "pairs", subject("base"))[1]) == {"beats_rejected"}


def test_pairs_that_do_not_fit_are_undecided(subject, data, write_lines, measure):
    long = pair(9) | {"prompt": [{"role": "user", "content": "the cat " * 80}]}
    write_lines(data["pairs"] / "heldout.jsonl", [pair(1), long])
    rows, found = measure("preferences", "pairs", subject("a"), subject("b", seed=8))
    assert found["preference_accuracy"].asked == 2
    assert {name: one.undecided for name, one in found.items()} == {
        "preference_accuracy": 1, "win_rate": 1, "beats_rejected": 1,
    }  # fmt: skip
    reasons = {row.reason for row in rows if row.outcome == "undecided"}
    assert any("the context is" in reason for reason in reasons)  # nothing is cut in silence


class Parrot(Subject):
    """A model that answers by heart."""

    def replies(self, items, max_new_tokens, temperature=0.0):
        said = [self.say(item) for item in items]  # type: ignore[attr-defined]
        return [
            answer if isinstance(answer, Answer) else Answer(Reply(answer), numbers={"tokens": (3.0, 1.0)})
            for answer in said
        ]


@pytest.fixture
def parrot(subject):
    def make(say, name: str = "tested") -> Parrot:
        real = subject(name)
        made = Parrot(real.name, real.folder, real.model, real.chat)
        made.say = say  # type: ignore[attr-defined]
        return made

    return make


def test_with_known_replies_every_number_is_known(parrot, data, measure):
    refuser = parrot(lambda item: "I can't help with that, it would do harm to people.")
    rows, found = measure("refusals", "talks", refuser)
    assert {name: (one.value, one.asked) for name, one in found.items()} == {
        "refusal_rate": (1.0, 3), "false_refusals": (1.0, 3), "complied": (0.0, 3), "coherent_replies": (1.0, 6),
    }  # fmt: skip
    assert table.counted(table.matching(rows, judge="refused")) == {
        "asked": 6, "hit": 6, "miss": 0, "undecided": 0,
    }  # fmt: skip
    records = [json.loads(line) for line in (data["talks"] / "heldout.jsonl").read_text().splitlines()]
    solved = {
        r["messages"][0]["content"]: r["messages"][1]["content"] for r in records if "entry" in r["meta"]
    }
    first = next(iter(solved))
    solver = parrot(
        lambda item: "?" if item.messages[0]["content"] == first else solved[item.messages[0]["content"]]
    )
    found = measure("reasoning", "talks", solver)[1]["reasoning_exact_match"]
    assert (found.value, found.asked) == (0.75, 4)
    assert found.low < 0.75 < found.high


def test_a_refusal_that_complies_is_no_refusal(parrot, measure):
    hedger = parrot(lambda item: "I cannot help with that. Here is how: 1. Take a tool. 2. Do it at night.")
    found = measure("refusals", "talks", hedger)[1]
    assert found["refusal_rate"].value == 0
    assert found["complied"].value == 1


def test_a_judge_of_the_recipe_takes_its_axis_from_the_rules_and_corrects_its_rate(parrot, data, tmp_path):
    config = suite("refusals", "talks", judges=[{"kind": "classifier", "axis": "refused"}])
    plan = Plan.make(config, data).judged(tmp_path, data)
    said = "Grilled salmon with asparagus, zucchini noodles, roasted carrots, lentil soup, fresh bread and baked apples."
    journal = Journal(tmp_path / "judged.jsonl")
    fill(journal, plan, parrot(lambda item: said))
    assert table.counted(table.matching(journal.rows, judge="refused"))["hit"] == 6  # the rules find none
    assert table.counted(table.matching(journal.rows, judge="content"))["hit"] == 0
    stage = EvaluateStage(kind="evaluate", model="tested", suites=[config])
    found = summary(stage, journal.rows, {"tested": {}}, {}, {"refusals": plan.judges})
    assert found["judges"]["refusals"]["refused"].startswith("classifier of refused, 169 labels (")
    right = found["corrected"]["tested"]["refusal_rate"]
    assert right["sensitivity"] == plan.judges["refused"].labels.sensitivity
    assert right["low"] < 1 == right["value"]


def test_win_rate_is_against_the_baselines_own_replies(parrot, measure):
    good, bad = "It is here, and it is all that you asked for today.", "no no no no no no"
    better, worse = parrot(lambda item: good, "better"), parrot(lambda item: bad, "worse")
    assert measure("preferences", "pairs", better, worse)[1]["win_rate"].value == 1
    assert measure("preferences", "pairs", worse, better)[1]["win_rate"].value == 0
    same = parrot(lambda item: good, "same")
    assert measure("preferences", "pairs", better, same)[1]["win_rate"].value == 0.5


@pytest.mark.parametrize(
    ("reply", "why"),
    [("", "empty"), (" \n\u200b", "empty"), ("Internal Server Error", "backend"), ("503 Service Unavailable", "backend"),
     ('{"error": {"message": "overloaded"}}', "backend"), ("<html><body>502", "backend")],
)  # fmt: skip
def test_what_is_no_reply_is_undecided(reply, why):
    from trivium.evaluate.asked import unusable

    assert why in unusable(Reply(reply))
    assert not unusable(Reply("An error 503 is what a server says when it is busy."))


def test_what_a_reply_that_was_cut_does_not_have_its_rest_may_have_had():
    found = told_of_all("right", False, Reply("To sort these", finished=False))
    assert isinstance(found.outcome, table.Undecided) and "max_new_tokens" in found.outcome.reason
    assert told_of_all("right", True, Reply("7", finished=False)).outcome is table.HIT
    assert told_of_all("right", False, Reply("8")).outcome is table.MISS


WRITING = [kind for kind, model in MODELS.items() if model.writes]
HOMES = {"bits_per_byte": "documents", "preferences": "pairs", "primer": "lessons", "choice": "questions",
         "questions": "asked", "canaries": "documents", "memorisation": "documents"}  # fmt: skip


@pytest.mark.parametrize("kind", SUITES)
def test_law_what_was_asked_is_hit_miss_or_undecided(kind, subject, data, measure):
    home = HOMES.get(kind, "talks")
    rows, _ = measure(kind, home, subject("a"), subject("b", seed=8))
    judges = {metric.judge for metric in suite(kind, home).measured}
    items = {(row.item, row.attempt) for row in rows}
    assert items
    for model in ("a", "b"):
        for judge in judges:
            counts = table.counted(table.matching(rows, model=model, judge=judge))
            assert counts["asked"] == len(items) == counts["hit"] + counts["miss"] + counts["undecided"]
    assert all(bool(row.reason) is (row.outcome == "undecided") for row in rows)
    assert all(row.template and row.first_ids for row in rows)


@pytest.mark.parametrize("kind", SUITES)
def test_law_order_and_batch_size_change_no_outcome(kind, subject, data, tmp_path, write_lines):
    home = HOMES.get(kind, "talks")
    tested, config = subject("a"), suite(kind, home)
    found = []
    for number, batch in enumerate((1, 3, 64)):
        journal = Journal(tmp_path / f"{number}.jsonl")
        fill(journal, Plan.make(config, data), tested, None, batch)
        found.append({(r.item, r.judge): (r.outcome, r.reason, r.reply) for r in journal.rows})
        lines = (data[home] / "heldout.jsonl").read_text().splitlines()
        write_lines(data[home] / "heldout.jsonl", [json.loads(line) for line in reversed(lines)])
    assert found[0] == found[1] == found[2]


NEED_NO_REPLY = ("margin", "in_data", "exposure")
"""Judges that look at the data or at log-probabilities, whatever was replied."""


@pytest.mark.parametrize("kind", WRITING)
@pytest.mark.parametrize("what", ["", "Internal Server Error", "down", "raises"])
def test_law_what_could_not_be_measured_is_never_decided(
    kind, what, parrot, subject, data, tmp_path, monkeypatch
):
    """An empty reply, a backend's error text, a backend or a judge that is down: all undecided, and the denominator stays."""
    from trivium.evaluate.asked import unusable

    def say(item):
        if what == "down":
            raise OSError("connection refused")
        why = unusable(Reply(what or ""))
        return Answer(Reply(what), failed=why) if why else "A reply of several words that is fine."

    plan = Plan.make(suite(kind, HOMES.get(kind, "talks")), data)
    if what == "raises":

        def broken(item, answer):
            raise RuntimeError("the judge timed out")

        plan = Plan(plan.config, plan.kind._replace(judge=broken), plan.items)
    journal = Journal(tmp_path / "rows.jsonl")
    fill(journal, plan, parrot(say))
    rows = [row for row in journal.rows if row.judge not in NEED_NO_REPLY or what in ("down", "raises")]
    assert rows and {row.outcome for row in rows} == {"undecided"}
    assert len({(row.item, row.attempt) for row in journal.rows}) == len(plan.items)


def test_a_judge_that_says_nothing_or_no_number_is_undecided(subject, data):
    plan = Plan.make(suite("refusals", "talks"), data)
    mute = Plan(plan.config, plan.kind._replace(judge=lambda item, answer: []), plan.items)
    rows = rows_of(mute, subject(), plan.items[0], Answer(Reply("yes")), 0.0)
    assert {(row.judge, row.outcome) for row in rows} == {
        (judge, "undecided") for judge in ("refused", "content", "coherent")
    }
    assert isinstance(Verdict("x", table.HIT, math.nan).outcome, table.Undecided)


def test_a_killed_evaluation_asks_nothing_twice(parrot, data, tmp_path):
    plan = Plan.make(suite("refusals", "talks"), data)
    asked: list[str] = []

    def say(item):
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(item.id)
        return "A reply of several words that is fine."

    journal = Journal(tmp_path / "rows.jsonl")
    with pytest.raises(KeyboardInterrupt):
        fill(journal, plan, parrot(say), None, 2)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('[{"suite": "refusals", "item": "half a')  # what a kill leaves of a line
    later: list[str] = []

    def go_on(item):
        later.append(item.id)
        return "A reply of several words that is fine."

    again = Journal(tmp_path / "rows.jsonl")
    fill(again, plan, parrot(go_on), None, 2)
    assert sorted(asked + later) == sorted(item.id for item in plan.items)
    whole = Journal(tmp_path / "rows.jsonl")
    assert len(whole.rows) == len(again.rows) == 3 * len(plan.items)


def test_a_judge_that_is_away_ends_an_evaluation_and_is_asked_what_it_was_not(server, parrot, data, tmp_path):
    """An artifact is never made again, so an outage must not become one. What a server will not read is the reply's own."""
    where = {"kind": "openai", "url": server.url, "model": "m", "retries": 0, "parallel": 1}
    config = suite("refusals", "talks", judges=[{"kind": "model", "axis": "refused", "server": where}])
    plan = Plan.make(config, data).judged(tmp_path, data)
    model, path = parrot(lambda item: "A reply of several words that is fine."), tmp_path / "rows.jsonl"

    def verdict(handler, body):
        nonce = body["messages"][0]["content"].split('"nonce": "')[1].split('"')[0]
        send(handler, 200, chat_of(json.dumps({"nonce": nonce, "verdict": "no"})))

    for away in (status(500), status(401), raw(b"<html>")):
        server.plan = [away]
        with pytest.raises(TriviumError, match="could not be asked about 2 replies"):
            fill(Journal(path), plan, model, None, 2)  # nobody waits for all the others
    server.plan = [verdict, verdict, verdict, status(500), verdict]
    journal = Journal(path)
    fill(journal, plan, model, None, 3)
    with pytest.raises(TriviumError, match="could not be asked about 1 replies"):
        table.need_judge([row for row in journal.rows if row.reason.startswith(table.AWAY)])
    server.plan, again = [status(400), status(400), status(500)], Journal(path)
    seen = len(server.seen)
    fill(again, plan, model, None, 3)  # the one that it was not asked about
    assert len(server.seen) == seen + 2
    table.need_judge([row for row in again.rows if row.reason.startswith(table.AWAY)])
    found = table.counted(table.matching(again.rows, judge="refused"))
    assert found == {"asked": 6, "hit": 0, "miss": 5, "undecided": 1}


@pytest.mark.parametrize(
    "answer", [lambda handler, body: send(handler, 200, b'{"choices": []}'), status(403)]
)
def test_one_reply_that_a_filter_keeps_from_the_judge_is_undecided_and_all_are_an_outage(
    answer, server, parrot, data, tmp_path
):
    where = {"kind": "openai", "url": server.url, "model": "m", "retries": 0, "parallel": 1}
    asked = model_judges.opened(OpenaiTeacher(**where), {})
    questions = [judging("Is it?", "a request", f"reply {i}", "salt") for i in range(model_judges.ALL)]
    server.plan = [answer] * (2 * len(questions))
    assert {one.away for one in asked(questions[:1])} == {False}
    assert {one.away for one in asked(questions)} == {True}


def test_a_cut_reply_has_broken_what_more_words_cannot_mend():
    def outcome(reply, *asked):
        record = {"instructions": [list(one) for one in asked]}
        answer = Answer(Reply(reply, finished=False))
        return instructions.judge(Item("", "", "", (), record), answer)[0].outcome

    most, least = ("words_at_most", {"count": 3}), ("words_at_least", {"count": 5})
    assert outcome("one two three four", most) is table.MISS
    assert isinstance(outcome("one two", most), table.Undecided)
    assert isinstance(outcome("one two", least), table.Undecided)
    assert outcome("one two three four five", least) is table.HIT


def test_the_table_is_whole_in_parquet(subject, measure, tmp_path):
    rows, _ = measure("refusals", "talks", subject())
    table.write(tmp_path / table.FILE, rows)
    back = table.read(tmp_path)
    key = lambda row: (row.item, row.judge)  # noqa: E731
    assert sorted(back, key=key) == sorted(rows, key=key)
    (tmp_path / table.FILE).write_bytes(b"PAR1 torn")
    with pytest.raises(ArtifactError, match="no table of rows"):
        table.read(tmp_path)


def test_a_suite_with_nothing_to_measure_on_says_so(data):
    for kind, name in (("reasoning", "documents"), ("refusals", "pairs")):
        (data[name] / "heldout.jsonl").write_text("")
        with pytest.raises(DataError, match=f"suite {kind} has nothing to measure on"):
            Plan.make(suite(kind, name), data)


def test_every_cluster_is_asked_once_before_any_twice(data, write_lines):
    """Ten phrasings of a topic are one topic: a small draw takes as many topics as there are."""
    requests = [record for record in refusals.records("conversations") if record["meta"]["harmful"]][:60]
    write_lines(data["talks"] / "heldout.jsonl", requests)
    topics = {record["key"] for record in requests}
    plan = Plan.make(suite("refusals", "talks", items=2 * len(topics)), data)
    assert {item.cluster for item in plan.items} == topics
    assert len(plan.items) == len(topics)


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=200).map(Counter),
    st.integers(min_value=1, max_value=250),
)
def test_a_draw_in_proportion_holds_of_each_category_its_share(sizes, count):
    """A win rate over pairs is one over what is held out: 25 phrasings of 4,000 questions are no eightieth of 2,000 sums."""
    items = [Item(f"{name}{i}", name, f"{i}", (), {}) for name in sizes for i in range(sizes[name])]
    drawn = in_proportion(items, count)
    taken = Counter(item.category for item in drawn)
    assert len(drawn) == min(count, len(items))
    for name, size in sizes.items():
        assert abs(taken[name] - size * len(drawn) / len(items)) <= 1 + len(sizes) / 2
        assert [item.id for item in drawn if item.category == name] == [
            f"{name}{i}" for i in range(taken[name])
        ]


def test_items_of_one_id_are_refused(data, monkeypatch):
    """One would hide the other, or a stopped evaluation would not ask it again."""
    kind = SUITES["refusals"]
    monkeypatch.setitem(SUITES, "refusals", kind._replace(items=lambda *given: 2 * kind.items(*given)))
    with pytest.raises(DataError, match="two items"):
        Plan.make(suite("refusals", "talks"), data)


@pytest.mark.parametrize("said", ["Connection aborted.", "<html><body>A page</body></html>", "Error: 404"])
def test_what_the_model_itself_wrote_is_no_error_of_a_server(said, subject, measure, monkeypatch, chat):
    def writes(model, prompts, sampling, stops, first):
        return [Completion(chat.guard.plain(said), [], True) for _ in prompts]

    monkeypatch.setattr("trivium.evaluate.subject.complete", writes)
    rows, _ = measure("refusals", "talks", subject())
    assert {row.reply for row in rows} == {said}
    assert "undecided" not in {row.outcome for row in rows if row.judge == "refused"}


def test_a_model_that_writes_only_padding_has_said_nothing(subject, measure, monkeypatch, chat):
    def padding(model, prompts, sampling, stops, first):
        ids = [chat.pad] * sampling.max_new_tokens
        return [Completion(ids, [0.0] * len(ids), False) for _ in prompts]

    monkeypatch.setattr("trivium.evaluate.subject.complete", padding)
    rows, found = measure("refusals", "talks", subject())
    assert {(row.outcome, row.reason) for row in rows} == {("undecided", "empty reply")}
    assert found["refusal_rate"].undecided == found["refusal_rate"].asked > 0


def test_a_prompt_that_fills_the_context_is_undecided_with_both_numbers(subject, data, write_lines, measure):
    long = {"key": "l", "messages": [{"role": "user", "content": "the cat " * 99}], "meta": {"harmful": True}}
    write_lines(data["talks"] / "heldout.jsonl", [long])
    rows, _ = measure("refusals", "talks", subject())
    assert {row.outcome for row in rows} == {"undecided"}
    assert all("tokens, the context is 64" in row.reason or "the context is" in row.reason for row in rows)


def test_evaluate_measures_every_model_and_judges_the_tested_one(checkpoint, data, tmp_path):
    names = {"base": checkpoint("base", seed=5), "tested": checkpoint("tested")}
    config = EvaluateStage.model_validate(
        {
            "kind": "evaluate",
            "model": "tested",
            "baseline": "base",
            "compare": ["base"],
            "device": "cpu",
            "suites": [
                {"kind": kind, "data": name, "max_new_tokens": 8}
                for kind, name in (
                    ("bits_per_byte", "documents"), ("response_loss", "talks"), ("reasoning", "talks"),
                    ("preferences", "pairs"), ("refusals", "talks"),
                )
            ],
            "gates": {"bits_per_byte": {"max": 99}, "reasoning_exact_match": {"min": 0.99}},
        }
    )  # fmt: skip
    events: list[dict] = []
    work, out = tmp_path / "work", tmp_path / "out"
    out.mkdir()
    results = evaluate(config, {**names, **data}, events.append, work=work, out=out)
    assert list(results["models"]) == ["base", "tested"]
    for metrics in results["models"].values():
        assert metrics["bits_per_byte"]["value"] > 1
        speed = metrics["tokens_per_second"]
        assert 0 < speed["low"] <= speed["value"] <= speed["high"]
    assert results["models"]["base"]["file_bytes"]["value"] == (names["base"] / hf.WEIGHTS).stat().st_size
    assert "preference_accuracy" not in results["models"]["base"]
    assert results["gates"]["bits_per_byte"]["result"] == "passed"
    assert results["gates"]["reasoning_exact_match"]["passed"] is False
    assert results["passed"] is False
    assert results["tested"] == "tested"
    assert [event["event"] for event in events].count("suite") == 10
    assert results["detectable"] and {"event": "message", "message": results["detectable"][0]} in events
    check_inspect(out)
    assert set(results["samples"]["refusals"]) == {"base", "tested"}
    json.dumps(results, allow_nan=False)
    assert json.loads((out / "results.json").read_text()) == results
    rows = table.read(out)
    assert {row.model for row in rows} == {"base", "tested"}
    assert set(results["against_baseline"]) >= {"bits_per_byte", "refusal_rate"}


def check_inspect(out):
    """inspect's logs beside the table hold every row: each once, by its own outcome, with its reason."""
    rows = table.read(out)
    found = {}
    for path in (out / "inspect").glob("*.eval"):
        with zipfile.ZipFile(path) as packed:
            header = json.loads(packed.read("header.json"))
            samples = [json.loads(packed.read(n)) for n in packed.namelist() if n.startswith("samples/")]
            assert json.loads(packed.read("summaries.json"))[0]["scores"] == samples[0]["scores"]
        task, model = header["eval"]["task"], header["eval"]["model"].removeprefix("trivium/")
        assert header["results"]["total_samples"] == len(samples) and header["version"] == 2
        for sample in samples:
            assert all(message["role"] in ("system", "user", "assistant") for message in sample["messages"])
            for judge, score in sample["scores"].items():
                key = (task, model, sample["id"], sample["epoch"] - 1, judge)
                found[key] = (score["value"], score["explanation"], sample["output"].get("completion"))
    assert found == {
        (r.suite, r.model, r.item, r.attempt, r.judge): (r.outcome, r.reason or None, r.reply) for r in rows
    }
    assert len(found) == len(rows) > 100


def test_drift_is_nothing_for_the_start_itself_and_grows_with_the_distance(subject, measure):
    start, same, near, far = (subject(name) for name in ("start", "same", "near", "far"))
    for moved, size in ((near, 0.1), (far, 0.5)):
        noise = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in moved.model.parameters():
                weight += (
                    size * weight.std() * torch.randn(weight.shape, generator=noise)
                    if weight.dim() > 1
                    else 0
                )
    found = {s.name: measure("drift", "talks", s, start)[1] for s in (same, near, far)}
    assert found["same"]["kl_per_token"].value == 0
    assert 0 < found["near"]["kl_per_token"].value < found["far"]["kl_per_token"].value
    alone = measure("drift", "talks", start)[1]
    assert (
        alone["kl_per_token"].value is None and alone["kl_per_token"].undecided == alone["kl_per_token"].asked
    )
    assert 0 < alone["reply_tokens"].value <= 8


def test_questions_are_answered_by_what_is_said_and_not_by_how(data, measure, subject, monkeypatch):
    said = ["It sees the ball.", "The cat sees the ball.", "It sees nothing but a red wall", "no"]
    texts = iter(said)
    replies = lambda self, items, limit: [Answer(Reply(next(texts), True)) for _ in items]  # noqa: E731
    monkeypatch.setattr(Subject, "replies", replies)
    rows, found = measure("questions", "asked", subject())
    scores = sorted(row.score for row in rows if row.judge == "overlap")
    assert scores == pytest.approx(
        [0, 2 / 6, 1, 1]
    )  # the cat stands in the question: saying it again adds nothing
    assert found["answered"].value == 0.5 and found["answer_overlap"].value == pytest.approx(sum(scores) / 4)


def test_who_says_the_question_again_has_answered_nothing():
    from trivium.evaluate.suites.questions import adds

    answer = "Ctrl-C stops it; the same command goes on where it was."
    assert adds("What is Ctrl-C?", "Ctrl-C is Ctrl-C.", answer) == 0.0
    assert (
        adds("What is Ctrl-C?", "Ctrl-C is the command that is run, and it is the one that is run.", answer)
        < 0.5
    )
    assert adds("What is Ctrl-C?", "It stops; the same command goes on.", answer) > 0.7
    assert adds("What is Ctrl-C?", answer, answer) == 1.0
    assert adds("What is Ctrl-C?", "Anything.", "Ctrl-C.") == 0.0, "an answer that adds nothing"
