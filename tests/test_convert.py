"""Configurations of other projects: each field is told of once, what is carried means the same, and nothing breaks the tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trivium.cli import main
from trivium.convert.build import convert
from trivium.convert.dialects import DIALECTS, EMPTY
from trivium.errors import RecipeError
from trivium.recipe.load import loads

AXOLOTL = """
base_model: some/model
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_target_modules: [q_proj, v_proj]
datasets:
  - {path: me/talks, type: chat_template, split: "train[:10%]"}
  - {path: local.jsonl, ds_type: json, type: alpaca}
val_set_size: 0.1
sequence_len: 2048
sample_packing: true
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 3
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 2e-4
warmup_steps: 10
bf16: auto
wandb_project:
seed: 42
"""
TRL = """
model_name_or_path: folder
dataset_name: me/pairs
learning_rate: 5.0e-7
beta: 0.05
per_device_train_batch_size: 8
max_steps: 200
warmup_steps: 20
lr_scheduler_type: inverse_sqrt
max_length: 1024
"""
FACTORY = """
model_name_or_path: folder
stage: kto
do_train: true
finetuning_type: lora
lora_target: all
dataset: first,second
template: llama3
cutoff_len: 512
num_train_epochs: 1.0
pref_beta: 0.2
max_samples: 1000
"""
TORCHTUNE = """
output_dir: /tmp/out
model: {_component_: torchtune.models.llama3.lora_llama3_8b, lora_rank: 8, lora_attn_modules: [q_proj, output_proj],
        apply_lora_to_mlp: true}
checkpointer: {_component_: torchtune.training.FullModelHFCheckpointer, checkpoint_dir: "${output_dir}/model"}
tokenizer: {_component_: torchtune.models.llama3.llama3_tokenizer, max_seq_len: 256}
dataset: {_component_: torchtune.datasets.alpaca_cleaned_dataset, packed: false}
optimizer: {_component_: torch.optim.AdamW, lr: 3e-4}
loss: {_component_: torchtune.modules.loss.LinearCrossEntropyLoss}
batch_size: 2
gradient_accumulation_steps: 8
epochs: 1
dtype: bf16
"""


def stage(text: str, name: str = "train") -> dict[str, Any]:
    return convert(text, "mine.yaml").recipe["stages"][name]


def test_an_axolotl_configuration() -> None:
    made = convert(AXOLOTL, "my_Config.yml")
    assert made.dialect == "axolotl" and made.recipe["name"] == "my-config" and made.recipe["seed"] == 42
    train, data = made.recipe["stages"]["train"], made.recipe["stages"]["data"]
    assert (train["batch"], train["micro_batch"], train["lr"], train["epochs"]) == (8, 2, 2e-4, 3)
    assert train["adapter"] == {"rank": 32, "alpha": 16, "targets": ["q_proj", "v_proj"], "quantize": "int8"}
    assert [source["kind"] for source in data["sources"]] == ["huggingface", "table"]
    assert data["heldout"] == 0.1 and data["sources"][0]["split"] == "train"
    told = {t.field: t for t in made.told}
    assert "only the data says" in told["warmup_steps"].why and told["wandb_project"].why == EMPTY
    loads(made.text("my_Config.yml"))
    assert "# not carried: sample_packing: always so here" in made.text("my_Config.yml")


def test_a_trl_configuration_with_a_beta_is_dpo() -> None:
    train = stage(TRL)
    assert (train["kind"], train["beta"], train["steps"], train["warmup"]) == ("dpo", 0.05, 200, 0.1)
    assert stage(TRL, "data")["format"] == "preferences"
    assert any("no schedule `inverse_sqrt`" in t.why for t in convert(TRL, "mine.yaml").told)


def test_a_llamafactory_configuration() -> None:
    train, data = stage(FACTORY), stage(FACTORY, "data")
    assert (train["kind"], train["beta"], train["adapter"]) == ("kto", 0.2, {})
    assert [source["path"] for source in data["sources"]] == ["data/first.json", "data/second.json"]
    assert data["size"] == 1000 and data["format"] == "feedback"
    loads(convert(FACTORY, "mine.yaml").text("mine.yaml"))


def test_a_torchtune_configuration() -> None:
    train = stage(TORCHTUNE)
    assert (train["kind"], train["batch"], train["context"], train["precision"]) == ("sft", 16, 256, "bf16")
    assert train["adapter"]["targets"] == ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert stage(TORCHTUNE, "start")["path"] == "/tmp/out/model"
    assert stage(TORCHTUNE, "data")["sources"][0]["name"] == "yahma/alpaca-cleaned"


def test_what_does_not_train_and_methods_that_are_not_here_are_refused() -> None:
    for text in ("compute_environment: LOCAL_MACHINE\n", "model_name_or_path: x\ntemplate: y\n"):
        with pytest.raises(RecipeError, match="no training configuration"):
            convert(text, "x.yaml")
    with pytest.raises(RecipeError, match="no method `ebft`"):
        convert(AXOLOTL + "rl: ebft\n", "x.yaml")


def leaves(value: Any) -> int:
    if isinstance(value, dict) and value:
        return sum(map(leaves, value.values()))
    if isinstance(value, list) and value and all(isinstance(inner, dict) for inner in value):
        return sum(map(leaves, value))
    return 1


EXAMPLES = {"axolotl": AXOLOTL, "trl": TRL, "llamafactory": FACTORY, "torchtune": TORCHTUNE}
FIELDS = sorted(
    {key for text in EXAMPLES.values() for key in yaml.safe_load(text)}
    | {"rl", "fsdp", "dp_shard_size", "unheard_of", "peft_config"}
)
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 10)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e400", "${seed}", "auto", "lora", "dpo"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "type", "_component_", "lr", "split"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None)
@example("axolotl", {"warmup_steps": False})
@example("axolotl", {"warmup_steps": 0})
@example("axolotl", {"warmup_steps": -3})
@given(st.sampled_from(sorted(EXAMPLES)), st.dictionaries(st.sampled_from(FIELDS), junk, max_size=4))
def test_whatever_stands_there_gives_a_recipe_or_an_error_for_people(
    dialect: str, changed: dict[str, Any]
) -> None:
    raw = yaml.safe_load(EXAMPLES[dialect]) | changed
    text = yaml.safe_dump(raw)
    try:
        made = convert(text, "mine.yaml", dialect)
    except RecipeError:
        return
    places = {t.field for t in made.told}
    assert len(places) == len(made.told) <= leaves(raw)
    for t in made.told:
        assert not (t.to and t.why)
    assert yaml.safe_load(made.text("x")) == json.loads(json.dumps(made.recipe))
    if not made.problem:
        loads(made.text("x"))


def test_every_pattern_is_one_and_says_something() -> None:
    for rows in DIALECTS.values():
        assert all(meaning and (meaning[0] != "!" or len(meaning) > 5) for _, meaning in rows)


def test_the_command_writes_a_recipe_and_says_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.yml").write_text(AXOLOTL)
    for arguments, code in (
        (["theirs.yml", "--out", "mine.yaml"], 0),
        (["theirs.yml", "--json"], 0),
        (["theirs.yml"], 0),
        (["theirs.yml", "--from", "nothing"], 2),
        (["nowhere.yml"], 2),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["convert", *arguments])
        assert stop.value.code == code, arguments
    out = capsys.readouterr().out
    assert "0 not known here" in out and loads(Path("mine.yaml").read_text()).name == "theirs"
