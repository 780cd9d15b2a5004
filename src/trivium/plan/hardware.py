"""Accelerators, their prices, and clusters of them: `8xH100`, or a YAML file. Figures and sources: the YAML files here."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from trivium.errors import RecipeError
from trivium.plan.bands import Band
from trivium.recipe import reader
from trivium.recipe.base import Strict
from trivium.recipe.lines import Lines, listed, nearest, together

HERE = Path(__file__).parent
REACH = 0.8
"""Share of the peak that large products are taken to reach where nobody is known to have measured it."""
ATTENTION = 0.4
"""The same of fused attention."""
LARGEST = 1_000_000
"""Accelerators in a cluster: more is taken for a mistake."""
GIGA = 1e9


@dataclass(frozen=True)
class Accelerator:
    """One device. Rates are of one second: FLOP and bytes."""

    id: str
    name: str
    peak: float  # dense, 16 bits, float32 accumulation
    memory: float  # bytes, as printed
    bandwidth: float  # bytes to and from its memory
    link: float  # bytes, one way, to the others of its domain
    domain: int  # devices that the link joins
    network: float  # bytes, one way, to other domains
    watts: float | None = None
    fp8: float | None = None  # peak of 8-bit products
    reach: float = REACH  # share of the peak that large products reach
    attention: float = ATTENTION  # share of the peak that fused attention reaches, forward
    price: Band | None = None  # US dollars an hour
    price_basis: str = ""


@dataclass(frozen=True)
class Cluster:
    """`count` accelerators of one kind."""

    accelerator: Accelerator
    count: int

    def __str__(self) -> str:
        return f"{self.count:,} x {self.accelerator.name}"

    def bandwidth(self, ranks: int) -> float:
        """Bytes a second, one way, that each of `ranks` neighbours can send to the next of them."""
        inside = ranks <= self.accelerator.domain
        return self.accelerator.link if inside else self.accelerator.network


@cache
def _read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((HERE / name).read_text(encoding="utf-8"))
    return loaded


@cache
def accelerators() -> dict[str, Accelerator]:
    """By id, as hardware.yaml and prices.yaml have them."""
    return {entry["id"]: _accelerator(entry) for entry in _read("hardware.yaml")["accelerators"]}


def _accelerator(entry: dict[str, Any]) -> Accelerator:
    def value(field: str) -> float | None:
        return float(entry[field]["value"]) if field in entry else None

    memory = (
        entry["memory_gib"]["value"] * 2**30 if "memory_gib" in entry else entry["memory_gb"]["value"] * GIGA
    )
    fp8 = value("fp8_dense_tflops")
    price, basis = _price(entry["id"])
    return Accelerator(
        id=entry["id"],
        name=entry["name"],
        peak=entry["bf16_dense_tflops"]["value"] * 1e12,
        memory=float(memory),
        bandwidth=entry["memory_gb_per_s"]["value"] * GIGA,
        link=entry["link_gb_per_s"]["value"] * GIGA,
        domain=entry["domain"],
        network=entry["network_gbit_per_s"] * GIGA / 8,
        watts=value("tdp_w"),
        fp8=None if fp8 is None else fp8 * 1e12,
        reach=value("matmul_reach") or REACH,
        attention=value("attention_reach") or ATTENTION,
        price=price,
        price_basis=basis,
    )


def _price(name: str) -> tuple[Band | None, str]:
    """Of the newest year's offers: lowest, median and highest; a single offer gets a quarter to either side."""
    offers = [
        entry for entry in _read("prices.yaml")["prices"]
        if entry["accelerator"] == name and not re.search("spot|all offers", entry["kind"])
    ]  # fmt: skip
    if not offers:
        return None, ""
    newest = max(str(entry["date"])[:4] for entry in offers)
    found = [entry for entry in offers if str(entry["date"])[:4] == newest]
    ends = [float(entry[end]) for entry in found for end in ("low", "high")]
    low, middle, high = min(ends), float(median(ends)), max(ends)
    basis = f"list prices of {newest}: {listed(dict.fromkeys(entry['source'] for entry in found))}"
    return Band(min(low, middle * 0.75), middle, max(high, middle * 1.25)), basis


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def accelerator(name: str) -> Accelerator:
    """By what people write: `H100`, `a100-80gb`, `TPU v5e`. RecipeError with the nearest names."""
    known = accelerators()
    names = {_plain(one): one for one in known} | {_plain(known[one].name): one for one in known}
    names |= {_plain(str(alias)): meant for alias, meant in _read("hardware.yaml")["aliases"].items()}
    asked = re.sub(r"^(nvidia|amd|intel|google|aws)", "", _plain(name))
    if asked in names:
        return known[names[asked]]
    begins = sorted({names[one] for one in names if asked and one.startswith(asked)})
    if len(begins) == 1:
        return known[begins[0]]
    near = begins or list(
        dict.fromkeys(names[one] for one in difflib.get_close_matches(asked, names, n=3, cutoff=0.3))
    )
    raise RecipeError(
        f"no accelerator `{name}` is known"
        if not begins
        else f"`{name}` may be any of {len(begins)} accelerators",
        where=f"--on {name}",
        fix=f"nearest: {listed(near or list(known)[:3])}. Another one is described in a cluster file "
        "(`--on cluster.yaml`; docs/planning.md shows one)",
    )


def of_this_machine(name: str, memory: float, count: int) -> Cluster:
    """`count` accelerators that their driver calls `name`, with the `memory` in bytes that it finds. RecipeError for one that the
    list has not."""
    asked = _plain(name)

    def unlike(one: Accelerator) -> tuple[float, ...]:
        return -len(one.id.split("-")[0]), ("pcie" in one.id) != ("pcie" in asked), abs(one.memory - memory)

    known = [one for one in accelerators().values() if one.id.split("-")[0] in asked]
    if not known:
        raise RecipeError(
            f"no accelerator `{name}` is known, so `parallel: auto` cannot tell which layout is fastest",
            fix="describe it in a cluster file (docs/planning.md) and name that as `launch.on`, or name a layout",
        )
    return Cluster(replace(min(known, key=unlike), memory=memory), count)


def _is_about(one: float, other: float, by: float) -> bool:
    return abs(one / other - 1) <= by


class Described(Strict):
    """An accelerator that the list has not."""

    name: str
    bf16_dense_tflops: Annotated[float, Field(gt=0, le=100_000)]
    """Peak of 16-bit products without sparsity, accumulated in float32."""
    memory_gb: Annotated[float, Field(gt=0, le=100_000)]
    memory_gb_per_s: Annotated[float, Field(gt=0)]
    link_gb_per_s: Annotated[float, Field(gt=0)] = 32.0
    """One way, to the others of its domain."""
    domain: Annotated[int, Field(gt=0)] = 8
    tdp_w: Annotated[float, Field(gt=0)] | None = None
    matmul_reach: Annotated[float, Field(gt=0, le=1)] = REACH

    @model_validator(mode="after")
    def _is_dense(self) -> Described:
        """A peak with sparsity is twice the dense one, and no training reaches it. It is told by a known name, or by
        the memory and its rate."""
        peak, bandwidth = self.bf16_dense_tflops * 1e12, self.memory_gb_per_s * GIGA

        def meant(one: Accelerator) -> bool:
            alike = _is_about(self.memory_gb * GIGA, one.memory, 0.08) and _is_about(
                bandwidth, one.bandwidth, 0.05
            )
            return alike or _plain(one.id.split("-")[0]) in _plain(self.name)

        known = [one for one in accelerators().values() if meant(one)]
        if any(_is_about(peak, one.peak, 0.03) for one in known):  # TPU v6e has twice what v5p has
            return self
        for one in known:
            if _is_about(peak, 2 * one.peak, 0.03):
                raise ValueError(
                    f"bf16_dense_tflops {self.bf16_dense_tflops:g} is twice what {one.name} reaches without sparsity: "
                    f"data sheets print that, too. Write {one.peak / 1e12:g}"
                )
        return self


def _built(found: Described) -> Accelerator:
    return Accelerator(
        id=found.name,
        name=found.name,
        peak=found.bf16_dense_tflops * 1e12,
        memory=found.memory_gb * GIGA,
        bandwidth=found.memory_gb_per_s * GIGA,
        link=found.link_gb_per_s * GIGA,
        domain=found.domain,
        network=50 * GIGA,
        watts=found.tdp_w,
        reach=found.matmul_reach,
    )


class ClusterFile(Strict):
    """What `--on FILE.yaml` holds."""

    accelerator: str | Described
    count: Annotated[int, Field(gt=0, le=LARGEST)]
    per_node: Annotated[int, Field(gt=0)] | None = None
    """Accelerators that the fast link joins; None: as is usual for this one."""
    network_gbit_per_s: Annotated[float, Field(gt=0)] | None = None
    """Of one accelerator, to other nodes."""
    price_usd_per_hour: Annotated[float, Field(ge=0)] | tuple[float, float, float] | None = None
    """Of one accelerator: what you pay, or low, expected and high."""


def cluster(text: str, folder: Path = Path()) -> Cluster:
    """The cluster that `--on` names; a file is looked for in `folder`. RecipeError for anything that is none."""
    if text.endswith((".yaml", ".yml")):
        return _from_file(folder / text)
    match = re.fullmatch(r"\s*(?:([-+]?[\d_,.]+[kK]?)\s*[x×*]\s*)?(.*?)\s*", text, re.DOTALL)
    assert match is not None  # every text matches
    if not match[2]:
        raise RecipeError(f"`{text}` names no accelerator", where=f"--on {text}", fix="write `8xH100`")
    return Cluster(accelerator(match[2]), _count(match[1] or "1", text))


def names_a_count(text: str) -> bool:
    """Whether `--on` says how many devices there are."""
    return text.endswith((".yaml", ".yml")) or re.match(r"\s*[-+]?[\d_,.]+[kK]?\s*[x×*]", text) is not None


def _count(number: str, text: str) -> int:
    try:
        count = float(number.lower().replace("_", "").replace(",", "").replace("k", "e3"))
    except ValueError:
        count = -1.0
    if count != int(count) or not 0 < count <= LARGEST:
        raise RecipeError(
            f"`{number}` is no number of accelerators",
            where=f"--on {text}",
            fix=f"write a whole number from 1 to {LARGEST:,}, such as `8xH100`",
        )
    return int(count)


def _from_file(path: Path) -> Cluster:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"the cluster file cannot be read: {error}", where=str(path), fix="give a YAML file, or `8xH100`"
        ) from None
    raw, lines = reader.read(text, str(path))
    try:
        asked: ClusterFile = ClusterFile.model_validate(raw)
        given = asked.price_usd_per_hour
        price = (
            None if given is None else Band(*given) if isinstance(given, tuple) else Band(given, given, given)
        )
    except ValidationError as error:
        # a described accelerator is no misspelt name of a listed one
        named = isinstance(raw.get("accelerator"), str)
        meant = [one for one in error.errors() if named or "str" not in one["loc"]]
        raise together([_explained(detail, lines) for detail in meant], str(path)) from None
    except ValueError as error:
        fix = "write low, expected and high in that order"
        raise RecipeError(str(error), where=lines.where(("price_usd_per_hour",)), fix=fix) from None
    device = (
        accelerator(asked.accelerator) if isinstance(asked.accelerator, str) else _built(asked.accelerator)
    )
    changes: dict[str, Any] = {}
    if asked.per_node is not None:
        changes["domain"] = asked.per_node
    if asked.network_gbit_per_s is not None:
        changes["network"] = asked.network_gbit_per_s * GIGA / 8
    if price is not None:
        changes |= {"price": price, "price_basis": f"given in {path.name}"}
    return Cluster(Accelerator(**{**vars(device), **changes}), asked.count)


def _explained(detail: Any, lines: Lines) -> RecipeError:
    path = tuple(part for part in detail["loc"] if part != "str" and "Described" not in str(part))
    fix = "docs/planning.md shows a cluster file"
    if detail["type"] == "extra_forbidden":
        fields = Described if len(path) > 1 else ClusterFile
        fix = f"{nearest(str(path[-1]), tuple(fields.model_fields))}{fix}"
    return RecipeError(detail["msg"].removeprefix("Value error, "), where=lines.where(path), fix=fix)
