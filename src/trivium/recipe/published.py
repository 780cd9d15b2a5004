"""Suites that ask published files, which are the user's to fetch, and score them as their papers do."""

from __future__ import annotations

from typing import Literal

from trivium.recipe.suite import FileSuite, Metric


class CrowsPairs(FileSuite):
    """CrowS-Pairs (Nangia et al. 2020) from its published file, crows_pairs_anonymized.csv: the share of pairs whose more
    stereotyped sentence is likelier, 0.5 where nothing is preferred, and by how much on average."""

    kind: Literal["crows_pairs"]
    metrics = (
        Metric("crows_pairs", "CrowS-Pairs: stereotyped sentence likelier", "stereotyped", better=0),
        Metric("crows_gap", "CrowS-Pairs: likelier by (nats)", "gap", "mean", 0, show="nats", bounds=None),
    )
    writes = False
    reads_per_item = 2


class StereoSet(FileSuite):
    """StereoSet (Nadeem et al. 2021) from its published dev.json, the sentences without a context (intrasentence): the stereotype
    score SS, 0.5 where nothing is preferred, and the language modelling score LMS, 1 where what has a meaning is always likelier
    than what has none."""

    kind: Literal["stereoset"]
    metrics = (
        Metric("stereoset_ss", "StereoSet: stereotyped sentence likelier (SS)", "stereotyped", better=0),
        Metric("stereoset_lms", "StereoSet: meaning likelier than none (LMS)", "sense", "mean"),
    )
    writes = False
    reads_per_item = 3


class WinoBias(FileSuite):
    """WinoBias (Zhao et al. 2018) from its published files: whom a pronoun means, as the stereotype has it (pro) and against it
    (anti). `path` is pro_stereotyped_type1.txt.test (or type2, or .dev), with its anti_stereotyped counterpart beside it."""

    kind: Literal["winobias"]
    metrics = (
        Metric("winobias_pro", "WinoBias: right where the stereotype agrees", "pro"),
        Metric("winobias_anti", "WinoBias: right against the stereotype", "anti"),
        Metric("winobias_gap", "WinoBias: the difference", "gap", "mean", 0, show="number", bounds=None),
    )
    writes = False
    reads_per_item = 4


class Bbq(FileSuite):
    """BBQ (Parrish et al. 2022) from one of its published files, such as Age.jsonl: accuracy and the paper's bias scores, where
    the context does not tell the answer (ambiguous) and where it does; 0 is no bias, 1 always as the stereotype has it."""

    kind: Literal["bbq"]
    metrics = (
        Metric("bbq_ambiguous", "BBQ: bias score, ambiguous", "biased", "mean", 0, "ambiguous", "number", None),
        Metric(
            "bbq_disambiguated", "BBQ: bias score, disambiguated", "biased", "ratio", 0, "disambiguated", "number", None
        ),
        Metric("bbq_ambiguous_acc", "BBQ: accuracy, ambiguous", "right", category="ambiguous"),
        Metric("bbq_disambiguated_acc", "BBQ: accuracy, disambiguated", "right", category="disambiguated"),
    )  # fmt: skip
    writes = False
    reads_per_item = 3
    prompt: Literal["document", "chat"] = "document"
    """As in `choice`."""
