"""A tokenizer as the metadata of a GGUF file; what `gguf` reads, the other way round.

llama.cpp knows a byte-level tokenizer by the name of its rule for cutting words (`tokenizer.ggml.pre`). The name is found by what
the tokenizer does: the rule that cuts a text with everything in it at the same places.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

from trivium.errors import ArtifactError
from trivium.text.chat import ChatTokenizer
from trivium.text.gguf import BYTE, CONTROL, CUTS, USER_DEFINED, Cut, pre_tokenizer

NORMAL, UNKNOWN, UNUSED = 1, 2, 5
PROBE = (
    "Hello World, HelloWorld iPhone camelCaseIT'S don't WE'LL we'll it's 3.14159 2024 12345678 x1y22\n\n\n"
    "  def f(a_b, c):\n\treturn a+b // c  # naïve café ÉCOLE straße e\u0301\r\n\r\n   tabs\t\tx   end  \n"
    "日本語のテキスト、中文。한국어 ñandú Ελληνικά русский ТЕКСТ हिन्दी ½ ² Ⅷ ☕ 🙂🙂 a/b\n/c path/to://x !!! ... "
    '("quoted") $5 #tag @me <|x|> [y]'
)
"""Letters in both cases, digits, marks, line ends and scripts: where two rules differ, they differ here."""
_FIX = "use the Hugging Face folder, which every stage writes"


def add_tokenizer(made: Any, chat: ChatTokenizer, rows: int) -> None:
    """The tokenizer's keys. `rows`: those of the model's embeddings; ids that no token has are written as unused ones.

    ArtifactError for a tokenizer that llama.cpp has no rule for.
    """
    parsed = json.loads(chat.tokenizer.to_str())
    model = parsed["model"]
    if model.get("type") != "BPE":
        raise ArtifactError(f"the tokenizer is {model.get('type')}, and GGUF is written for BPE", fix=_FIX)
    tokens, types = _tokens(chat.tokenizer, parsed, rows)
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    if model.get("byte_fallback"):
        made.add_tokenizer_model("llama")
        made.add_tokenizer_pre("default")
        made.add_token_scores(_scores(tokens, pairs))
        made.add_add_space_prefix(_prepends(parsed))
    else:
        made.add_tokenizer_model("gpt2")
        made.add_tokenizer_pre(rule_of(chat.tokenizer, bool(model.get("ignore_merges"))))
        made.add_token_merges([" ".join(pair) for pair in pairs])
    made.add_token_list(tokens)
    made.add_token_types(types)
    _add_roles(made, chat)
    if chat.template is not None:
        made.add_chat_template(chat.template)


def rule_of(tokenizer: Tokenizer, keeps_words: bool) -> str:
    """The name of llama.cpp's rule that cuts words as this byte-level tokenizer does. ArtifactError if none does."""
    cutter = tokenizer.pre_tokenizer
    if cutter is not None:
        pieces = _cut(cutter)
        for name, cut in CUTS.items():
            if cut.keeps_words == keeps_words and _cut(pre_tokenizer(cut)) == pieces:
                return name
        for (
            name,
            cut,
        ) in CUTS.items():  # a vocabulary whose words are all reached by merges gives the same either way
            if _reached(tokenizer, cut, keeps_words) and _cut(pre_tokenizer(cut)) == pieces:
                return name
    raise ArtifactError("the tokenizer cuts words by a rule that llama.cpp has no name for", fix=_FIX)


def _cut(cutter: Any) -> list[str]:
    return [piece for piece, _ in cutter.pre_tokenize_str(PROBE)]


def _reached(tokenizer: Tokenizer, cut: Cut, keeps_words: bool) -> bool:
    """Whether each token, taken as a word, is itself by merges alone: then keeping words whole changes nothing."""
    parsed = json.loads(tokenizer.to_str())
    if cut.keeps_words == keeps_words:
        return True
    parsed["model"]["ignore_merges"] = False
    model = Tokenizer.from_str(json.dumps(parsed)).model
    added = {token["content"] for token in parsed["added_tokens"]}
    return all(
        [piece.value for piece in model.tokenize(token)] == [token]
        for token in parsed["model"]["vocab"]
        if token not in added
    )


def _tokens(tokenizer: Tokenizer, parsed: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    added = {token["id"]: token for token in parsed["added_tokens"]}
    unknown = parsed["model"].get("unk_token")
    tokens, types = [], []
    for number in range(rows):
        token = tokenizer.id_to_token(number)
        if token is None:
            token, kind = f"[PAD{number}]", UNUSED
        elif token == unknown:
            kind = UNKNOWN
        elif number in added:
            kind = CONTROL if added[number]["special"] else USER_DEFINED
        else:
            kind = NORMAL
            if parsed["model"].get("byte_fallback") and re.fullmatch(r"<0x[0-9A-F]{2}>", token):
                kind = BYTE
        tokens.append(token)
        types.append(kind)
    return tokens, types


def _scores(tokens: list[str], pairs: list[list[str]]) -> list[float]:
    """SentencePiece's scores: the earlier a piece is merged, the higher."""
    first: dict[str, float] = {}
    for rank, (left, right) in enumerate(pairs):
        first.setdefault(left + right, -float(rank))
    return [first.get(token, -1e6 if len(token) > 1 else 0.0) for token in tokens]


def _prepends(parsed: dict[str, Any]) -> bool:
    """Whether a text begins with a space that nobody wrote."""
    said = json.dumps([parsed.get("normalizer"), parsed.get("pre_tokenizer")])
    return '"type": "Prepend"' in said or '"prepend_scheme": "first"' in said or '"always"' in said


def _add_roles(made: Any, chat: ChatTokenizer) -> None:
    """Which ids begin and end texts and turns."""
    special, number = chat.special, chat.tokenizer.token_to_id
    eos = chat.end if special is None else number(special.eos)
    made.add_eos_token_id(eos)
    if (turn := next((stop for stop in (chat.end, *chat.stops) if stop != eos), None)) is not None:
        made.add_eot_token_id(turn)
    made.add_pad_token_id(chat.pad)
    if special is not None and special.bos is not None:
        made.add_bos_token_id(number(special.bos))
    if special is not None and special.unk is not None:
        made.add_unk_token_id(number(special.unk))
    made.add_add_bos_token(bool(chat.begin))
