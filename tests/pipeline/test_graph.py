import pytest
from pipeline_fakes import recipe, stages

from trivium.errors import RecipeError
from trivium.pipeline.graph import build, execution_order


def test_a_stage_comes_after_its_inputs_and_else_in_the_order_of_the_recipe():
    values = stages()
    assert build(recipe(values)).order == tuple(values)
    backwards = dict(reversed(values.items()))
    order = build(recipe(backwards)).order
    assert order.index("chat") < order.index("small") and order.index("chats") < order.index("corpus")
    graph = build(recipe(backwards))
    assert all(order.index(parent) < order.index(name) for name in order for parent in graph.inputs(name))


def test_names_inside_suites_and_lists_are_inputs_too():
    values = stages()
    values["safety"]["compare"] = ["base", "chat"]
    roles = build(recipe(values)).roles["safety"]
    assert roles == {
        "model": "aligned",
        "baseline": "chat",
        "compare[0]": "base",
        "compare[1]": "chat",
        "suites[0].data": "corpus",
    }


def test_ancestors():
    graph = build(recipe())
    assert graph.ancestors(["chat"]) == {"base", "chats", "corpus", "vocab"}
    assert graph.ancestors(["corpus"]) == frozenset()


def test_data_is_walked_first_and_only_takes_what_is_needed():
    order = execution_order(recipe(), build(recipe()))
    assert order == ("corpus", "chats", "vocab", "base", "chat", "aligned", "safety", "small")
    assert execution_order(recipe(), build(recipe()), ["base"]) == ("corpus", "vocab", "base")


def test_an_unknown_name_is_met_with_the_nearest_one():
    values = stages()
    values["chat"]["init"] = "bass"
    with pytest.raises(RecipeError, match="no stage named 'bass'") as caught:
        build(recipe(values))
    assert caught.value.where == "stages.chat.init" and "'base'" in caught.value.fix
    with pytest.raises(RecipeError, match="no stage named 'chatt'"):
        execution_order(recipe(), build(recipe()), ["chatt"])


def test_a_circle_names_its_stages():
    values = stages()
    values["base"]["init"] = "chat"
    with pytest.raises(RecipeError, match="circle: base, chat, aligned"):
        build(recipe(values))
