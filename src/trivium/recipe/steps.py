"""The steps that every document of a data stage goes through, with the published thresholds as defaults.

A step that is a block (`rules: {gopher: {}}`) can be written `true` for its defaults and `false` to switch it off. A
threshold that is null switches off its one rule.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    SerializeAsAny,
    model_validator,
)

from trivium.recipe.base import Fraction, Strict, only
from trivium.recipe.kinds import added

Block = TypeVar("Block", bound=Strict)
Size = Annotated[int, Field(ge=0)]
Ratio = Annotated[float, Field(ge=0)]


def _switch(value: Any) -> Any:
    """true -> the block with its defaults, false -> no block."""
    return {} if value is True else None if value is False else value


class _OnOff:
    """What editors are told of a switch: `json_schema_input_type` does not follow a type variable."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(core)
        return {**found, "anyOf": [*found["anyOf"], {"type": "boolean"}]}


Switch = Annotated[Block | None, BeforeValidator(_switch), _OnOff()]
"""A step: its block, true for its defaults, false or null for none."""


class Extract(Strict):
    """The main text of a page of HTML."""

    library: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """resiliparse reads about ten times as many pages a second; trafilatura also gives metadata and fewer menus."""
    main_content: bool = True
    """Only the main text, without menus, footers and comments."""


class Normalise(Strict):
    """One spelling for what looks the same, and nothing in it that nobody sees."""

    form: Literal["NFC", "NFKC"] | None = "NFC"
    """Unicode normalisation. NFKC also folds ligatures, full-width letters and superscripts (x² becomes x2)."""
    mojibake: bool = True
    """Repair UTF-8 that was read as another charset (`cafÃ©` becomes `café`)."""
    invisible: bool = True
    """Remove control characters, bidi overrides, zero-width and tag characters, where no script needs them."""
    max_blank_lines: Size | None = 2
    """Blank lines in a row that are kept. null: all."""


class Language(Strict):
    """Which language a document is in: columns `language` and `language_score`, and which ones are kept."""

    keep: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] | None = None
    """ISO 639-1 codes (639-3 where there is none), such as [en, de]. null keeps all and only labels."""
    min_score: Fraction = only(0.65, {"keep": "set"})
    """Probability that the language needs; FineWeb takes 0.65."""

    @model_validator(mode="after")
    def _something_kept(self) -> Language:
        if self.keep == []:
            raise ValueError("`keep` names no language, so nothing would be kept; write null to keep all")
        return self


class Gopher(Strict):
    """Quality rules of MassiveText (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1)."""

    min_words: Size | None = 50
    """Fewest words of a document (punctuation is no word)."""
    max_words: Size | None = 100_000
    """Most words of a document."""
    min_mean_word_length: Ratio | None = 3.0
    """Characters per word, on average, at least."""
    max_mean_word_length: Ratio | None = 10.0
    """Characters per word, on average, at most."""
    max_hashes: Ratio | None = 0.1
    """Number signs (`#`) per word."""
    max_ellipses: Ratio | None = 0.1
    """Ellipses (`...` or `…`) per word."""
    max_bullet_lines: Fraction | None = 0.9
    """Share of lines that begin with a bullet."""
    max_ellipsis_lines: Fraction | None = 0.3
    """Share of lines that end with an ellipsis."""
    min_alphabetic_words: Fraction | None = 0.8
    """Share of words with at least one letter."""
    min_stop_words: Size | None = 2
    """Different stop words that a document needs."""
    stop_words: dict[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], list[str]] = {
        "en": ["the", "be", "to", "of", "and", "that", "have", "with"]
    }
    """Stop words by language; a document in a language without a list is not held to this rule."""


class GopherRepetition(Strict):
    """Repetition rules of MassiveText (Rae et al. 2021, arXiv:2112.11446, table A1). Each is a largest share."""

    duplicate_lines: Fraction | None = 0.30
    """Lines that stood there before."""
    duplicate_paragraphs: Fraction | None = 0.30
    """Paragraphs that stood there before."""
    duplicate_line_characters: Fraction | None = 0.20
    """Characters in lines that stood there before."""
    duplicate_paragraph_characters: Fraction | None = 0.20
    """Characters in paragraphs that stood there before."""
    top_2gram: Fraction | None = 0.20
    """Characters in the most frequent pair of words."""
    top_3gram: Fraction | None = 0.18
    """Characters in the most frequent three words in a row."""
    top_4gram: Fraction | None = 0.16
    """Characters in the most frequent four words in a row."""
    duplicate_5gram: Fraction | None = 0.15
    """Characters in five words in a row that stood there before; likewise below."""
    duplicate_6gram: Fraction | None = 0.14
    duplicate_7gram: Fraction | None = 0.13
    duplicate_8gram: Fraction | None = 0.12
    duplicate_9gram: Fraction | None = 0.11
    duplicate_10gram: Fraction | None = 0.10


class C4(Strict):
    """Rules of the Colossal Clean Crawled Corpus (Raffel et al. 2020, section 2.2). They also drop lines."""

    terminal_punctuation: bool = True
    """Keep only lines that end in a full stop, an exclamation or question mark, or a quotation mark."""
    min_sentences: Size | None = 3
    """Fewest sentences of a document, counted in the lines that are kept (FineWeb takes 5)."""
    min_words_per_line: Size | None = 5
    """Lines with fewer words are dropped (FineWeb takes 3)."""
    max_word_length: Size | None = 1000
    """Lines with a longer word are dropped (characters; from the published code)."""
    javascript: bool = True
    """Drop lines that mention JavaScript."""
    policy: bool = True
    """Drop lines about cookies, privacy policies and terms of use."""
    citations: bool = True
    """Remove the marks of Wikipedia's citations: [1], [edit], [citation needed]."""
    lorem_ipsum: bool = True
    """Drop documents with the placeholder text "lorem ipsum"."""
    curly_bracket: bool = True
    """Drop documents with a curly bracket, which is mostly code."""


class FineWeb(Strict):
    """Rules of FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

    min_terminal_lines: Fraction | None = 0.12
    """Share of lines that end in a mark that ends a sentence, in any script."""
    max_duplicate_line_characters: Fraction | None = 0.1
    """Share of characters in lines that stood there before (the paper's; datatrove's default is 0.01)."""
    max_short_lines: Fraction | None = 0.67
    """Share of lines with at most `short_line` characters."""
    short_line: Size = only(30, {"max_short_lines": "set"})
    """Characters of a short line, at most."""
    max_newlines_per_word: Ratio | None = 0.3
    """Line ends per word: lists have many (from the published code)."""


class Rules(Strict):
    """Published heuristic rules; a set that is not named is off."""

    gopher: Switch[Gopher] = None
    gopher_repetition: Switch[GopherRepetition] = None
    c4: Switch[C4] = None
    fineweb: Switch[FineWeb] = None
    language: str = "en"
    """What a document is taken for whose language nobody has identified: decides which stop words hold."""


def _named_rules(value: Any) -> Any:
    """`web` -> what FineWeb itself ran: all four sets, C4's with its numbers and without terminal punctuation."""
    if value == "web":
        return {
            "gopher": {},
            "gopher_repetition": {},
            "c4": {"terminal_punctuation": False, "min_sentences": 5, "min_words_per_line": 3},
            "fineweb": {},
        }
    if value is True:
        raise ValueError("write `web` for FineWeb's selection, or name the sets: {gopher: true, c4: true}")
    return None if value is False else value


RulesBlock = Annotated[
    Rules | None,
    BeforeValidator(_named_rules, json_schema_input_type=Rules | Literal["web"] | bool | None),
]
"""The rule sets by name, or `web` for FineWeb's own selection."""


class Quality(Strict):
    """A score from 0 to 1 by a linear model over words and pairs of words, in the column `quality`."""

    model: str
    """Folder that `trivium data quality train` wrote, relative to the recipe."""
    min: Fraction | None = None
    """Documents with a lower score are dropped. null only scores."""


class Pii(Strict):
    """Personal data and secrets, replaced by placeholders such as <EMAIL> and counted by type."""

    email: bool = True
    """E-mail addresses, but for those of example.com and its like."""
    ip: bool = True
    """Public IPv4 and IPv6 addresses; private, loopback and documentation ranges identify nobody and stay."""
    phone: bool = True
    """Telephone numbers: with a country code, and written as in one of `regions`."""
    regions: list[Annotated[str, Field(pattern=r"^[A-Z]{2}$")]] = only(["US"], {"phone": "set"})
    """Countries (ISO 3166) whose national way of writing telephone numbers is recognised."""
    iban: bool = True
    """International bank account numbers whose check digits are right."""
    card: bool = True
    """Credit card numbers with a known issuer and a right check digit."""
    secrets: bool = True
    """Keys and tokens: AWS, GitHub, Slack, Stripe and others, JWTs, private keys, passwords in assignments."""


class StepBase(Strict):
    """A step of another package: a model with a literal `kind`, found through the entry points `trivium.steps`."""

    kind: str

    @classmethod
    def implementation(cls) -> Any:
        """What does it: called with (this block, the recipe's folder), gives a `trivium.corpus.steps.Step`."""
        raise NotImplementedError


PlugInStep = Annotated[SerializeAsAny[StepBase], PlainValidator(lambda value: _added(value))]


def _added(value: Any) -> StepBase:
    """The block of a plug-in, checked by the plug-in's own model."""
    if isinstance(value, StepBase):
        return value
    models = added("trivium.steps", StepBase)
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in models:
        raise ValueError(
            f"no package here brings a step of the kind {kind!r}; known: {', '.join(models) or 'none'}"
        )
    return models[kind].model_validate(value)
