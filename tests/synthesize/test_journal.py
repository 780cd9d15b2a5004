"""The journal: what was answered is there after any kill, and half a line is nothing."""

from trivium.synthesize.journal import Journal, key_of


def test_answers_survive_and_half_a_line_does_not(tmp_path):
    path = tmp_path / "calls.jsonl"
    journal = Journal(path)
    journal.put("a", ["é\n", True])
    journal.put("b", ["x", False])
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        again = Journal(path)
        assert set(again.held) <= {"a", "b"}
        again.put("c", ["y", True])
        final = Journal(path)
        assert final.get("c") == ["y", True]
        assert final.held == {**again.held}
    path.write_bytes(whole)
    assert Journal(path).held == {"a": ["é\n", True], "b": ["x", False]}


def test_keys_are_of_the_content():
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})
