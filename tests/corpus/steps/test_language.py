from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from trivium.corpus.steps.language import LanguageStep, identify
from trivium.recipe.steps import Language

SAID = {
    "en": "The river begins high in the mountains and runs down to the sea.",
    "de": "Der Fluss entspringt hoch in den Bergen und fließt hinunter ins Meer.",
    "fr": "La rivière naît en haut des montagnes et descend jusqu'à la mer.",
    "es": "El río nace en lo alto de las montañas y baja hasta el mar.",
    "ru": "Река начинается высоко в горах и течёт вниз к морю.",
    "ja": "川は高い山から始まり、海へと流れていきます。",
    "ar": "يبدأ النهر من أعالي الجبال وينحدر إلى البحر.",
    "zh": "这条河发源于高山，一直流到大海。",
}


@pytest.mark.parametrize("language", SAID)
def test_languages_are_told_apart(language: str) -> None:
    found, score = identify(SAID[language] * 3)
    assert found == language
    assert 0.65 < score <= 1


def test_keep_list_threshold_and_columns() -> None:
    step = LanguageStep(Language(keep=["en"]))
    document = {"text": SAID["en"]}
    assert step(document) is None
    assert document["language"] == "en" and 0.65 < float(document["language_score"]) <= 1
    assert step({"text": SAID["de"]}) == "language:de"
    assert step({"text": "123 456 !?"}) == "language:none"
    assert LanguageStep(Language(keep=["en"], min_score=1.0))({"text": "the la der"}) in (
        "language:min_score",
        "language:de",
    )
    assert LanguageStep(Language())({"text": SAID["de"]}) is None  # only labels


def test_a_page_in_two_languages_is_the_one_that_most_of_it_is_in() -> None:
    assert identify(SAID["en"] * 20 + SAID["fr"] * 100)[0] == "fr"
    assert identify(SAID["fr"] * 20 + SAID["en"] * 100)[0] == "en"


def test_odd_texts_do_not_stop_it() -> None:
    assert identify("") == (None, 0.0)
    assert identify("\ud800abc" * 5)[1] >= 0
    assert identify("a" * 100_000)[1] >= 0


def test_no_network_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh process, so that nothing is loaded already, with every socket refused."""
    code = (
        "import socket\n"
        "def no(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = no\n"
        "from trivium.corpus.steps.language import identify\n"
        f"assert identify({SAID['fr']!r})[0] == 'fr'"
    )
    assert socket.create_connection
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "HOME": "/nonexistent"},
    )


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_capitals_do_not_change_the_language(language: str) -> None:
    text = {
        "en": "The command lists the files of a directory and sorts them by the time of their last change.",
        "de": "Der Befehl zeigt die Dateien eines Verzeichnisses und ordnet sie nach der Zeit der letzten Änderung.",
        "fr": "La commande affiche les fichiers du répertoire et les trie selon la date de leur dernière modification.",
    }[language]
    assert identify(text.upper()) == identify(text.lower()) and identify(text.upper())[0] == language
