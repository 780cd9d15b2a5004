"""What `trivium plan` says of training runs that were published, against the hours that they reported.

    python benchmarks/plan.py                       all tables, half a minute on one core
    python benchmarks/plan.py --svg docs/plan.svg   the plot, too

Three questions, on `published_runs.yaml` (every figure there has its source):

- throughput: rates that training codes published, against the roofline. Their spread is the doubt that no plan can lower.
- given: the run's published utilisation is put in. Tests the count of the work.
- predicted: shape, tokens, batch, devices and their number go in, hours come out. The one constant, what all runs lose against
  the roofline, is the median of the runs of all other organisations: none is fitted to a model, nor to its maker.

A run counts in `given` if its utilisation is one of model FLOPs over the whole run, and in both if its hours are those of one
pass over its tokens. What does not is left out for a cause that the file states, and shown beside. Nothing `low` is used.

The ends of the band are ranks of the shares of the roofline that runs reached (`ends`); those of all runs stand in `doubts.yaml`.
Whether such a band holds 80 of 100 is asked of runs that it was not taken from: each organisation against the band of all others,
and, split by the first byte of SHA-256 of the organisation's name, each half against the band of the other. Changes of the
roofline may look at the even half only from here on.

The roofline was changed three times after a look at these runs: `predicted` is no test on runs unseen (docs/planning.md).
"""

from __future__ import annotations

import argparse
import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trivium.evaluate.statistics import by_cluster, share_interval
from trivium.model.config import Experts, Latent, ModelConfig
from trivium.plan import flops, hardware, search
from trivium.plan.doubts import doubts

HERE = Path(__file__).parent
USUAL_BATCH = 4_000_000  # tokens of a step where none is published
SHARE = 8192  # tokens of a step for each device, where their number is not published


@dataclass(frozen=True)
class Point:
    """A run: device-hours reported and planned, and why it is left out, if it is."""

    run: dict[str, Any]
    planned: float
    cause: str = ""
    detail: str = ""

    @property
    def off(self) -> float:
        """Planned over reported, less 1."""
        return self.planned / self.run["hours"] - 1


def config_of(run: dict[str, Any]) -> ModelConfig:
    """The shape, with or without a gate and tied embeddings: whichever comes closest to the parameters that were published."""
    shape, experts = run["shape"], run.get("experts")
    latent = Latent(**run["latent"]) if "latent" in run else None
    width = latent.plain + latent.turned if latent else shape["width"] // shape["heads"]
    inner = shape.get("ffn", 4 * shape["width"])

    def build(gated: bool, tied: bool) -> ModelConfig:
        return ModelConfig(
            vocab_size=shape["vocab"],
            dim=shape["width"],
            layers=shape["layers"],
            heads=shape["heads"],
            kv_heads=shape["kv_heads"],
            head_dim=shape.get("head_dim", width),
            hidden=shape.get("dense_ffn", inner),
            context=shape["sequence"],
            gated=gated,
            tie_embeddings=tied,
            latent=latent,
            experts=Experts(hidden=inner, **experts) if experts else None,
        )

    every = [build(gated, tied) for gated in (True, False) for tied in (True, False)]
    return min(every, key=lambda one: abs(math.log(flops.parameters(one) / run["parameters"])))


def peak(run: dict[str, Any]) -> float:
    return hardware.accelerators()[run["accelerator"]].peak


def given(run: dict[str, Any]) -> Point:
    """Hours from the published utilisation, with the work counted as its source counts it."""
    quoted, parameters = run["quoted"], run.get("active", run["parameters"])
    each = {"6 N D": 6 * parameters, "8 N D": 8 * parameters}.get(quoted["of"])
    work = run["tokens"] * (each or flops.training(config_of(run), run["shape"]["sequence"]))
    hours = work / (quoted["utilisation"] * peak(run)) / 3600
    return Point(run, hours, run.get("left_out") or quoted.get("left_out", ""), quoted["of"])


def at_the_roofline(run: dict[str, Any]) -> tuple[float, search.Found]:
    """Device-hours if nothing were lost, in the best layout that any code has."""
    config, length = config_of(run), run["shape"]["sequence"]
    batch = run.get("batch_tokens", USUAL_BATCH)
    count = run.get("count") or min(1024, max(8, 2 ** round(math.log2(batch / SHARE))))
    rows = max(1, round(batch / length / count)) * count
    cluster = hardware.Cluster(hardware.accelerators()[run["accelerator"]], count)
    found = search.search(search.Asked(config, rows, length, fp8=run.get("fp8", False), others=True), cluster)
    steps = run["tokens"] / (rows * length)
    return steps * found.winner.step.seconds * found.cluster.count / 3600, found


Bare = list[tuple[dict[str, Any], float, search.Found]]
"""Runs, their device-hours if nothing were lost, and the layout that has them."""


def bare_hours(runs: Sequence[dict[str, Any]]) -> Bare:
    """Of every run with a shape."""
    usable = [run for run in runs if "shape" in run and run.get("left_out") not in ("low", "no shape")]
    return [(run, *at_the_roofline(run)) for run in usable]


def predicted(bare: Bare) -> list[Point]:
    """Each run with the share of the roofline that the runs of all other organisations reached."""
    points = []
    for run, hours, found in bare:
        others = [
            least / other["hours"]
            for other, least, _ in bare
            if "left_out" not in other and other["organisation"] != run["organisation"]
        ]
        share = statistics.median(others)
        points.append(Point(run, hours / share, run.get("left_out", ""), str(found.winner)))
    return points


def held_out(run: dict[str, Any]) -> bool:
    """The frozen split: runs of organisations whose name has an odd first byte in SHA-256."""
    return hashlib.sha256(run["organisation"].encode()).digest()[0] % 2 == 1


def ends(shares: Sequence[float]) -> tuple[float, float]:
    """Between which shares a run that is drawn like these lies in 80 of 100 cases: ranks among one more (split conformal
    prediction, Vovk et al. 2005), so that few runs make a wider band."""
    ordered, n = sorted(shares), len(shares)
    low, high = math.floor(0.1 * (n + 1)), math.ceil(0.9 * (n + 1))
    return ordered[max(low, 1) - 1], ordered[min(high, n) - 1]


def reached(bare: Bare) -> list[tuple[dict[str, Any], float]]:
    """The share of the roofline that each run of the headline reached."""
    return [(run, hours / run["hours"]) for run, hours, _ in bare if "left_out" not in run]


Inside = list[tuple[str, bool]]
"""Organisations of runs, and whether each run lies in a band."""


def crossed(bare: Bare) -> Inside:
    """Whether each run lies between the ends that the runs of all other organisations give."""
    found: Inside = []
    shares = reached(bare)
    for run, share in shares:
        low, high = ends([other for one, other in shares if one["organisation"] != run["organisation"]])
        found.append((run["organisation"], low <= share <= high))
    return found


def halves(bare: Bare) -> tuple[Inside, Inside]:
    """Whether each run of the odd half lies between the ends of the even one, and the other way round."""
    even, odd = ([one for one in reached(bare) if held_out(one[0]) is out] for out in (False, True))

    def inside(asked: Sequence[tuple[Any, float]], by: Sequence[tuple[Any, float]]) -> Inside:
        low, high = ends([share for _, share in by])
        return [(run["organisation"], low <= share <= high) for run, share in asked]

    return inside(odd, even), inside(even, odd)


def frozen(bare: Bare) -> tuple[list[Point], list[Point]]:
    """The half that the constant is taken from, and the half that it is not."""
    share = statistics.median([one for run, one in reached(bare) if not held_out(run)])
    points = [
        Point(run, hours / share, "", str(found.winner))
        for run, hours, found in bare
        if "left_out" not in run
    ]
    inner, outer = ([one for one in points if held_out(one.run) is out] for out in (False, True))
    return inner, outer


def headline(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if not point.cause]


def error(points: Sequence[Point]) -> float:
    """Median size of the error, as a share of what was reported."""
    return statistics.median(abs(point.off) for point in points)


def held(points: Sequence[Point]) -> Inside:
    """Whether the hours of each run lie in the 80% band that `doubts.yaml` puts around the plan."""
    band = (doubts()["practice"].band * doubts()["goodput"].band).inverse()
    low, high = band.low / band.expected, band.high / band.expected
    return [
        (point.run["organisation"], low <= point.run["hours"] / point.planned <= high) for point in points
    ]


def covered(inside: Inside) -> float:
    return statistics.mean(yes for _, yes in inside)


MPT = {
    "mpt-70b": (8192, 80, 64), "mpt-30b": (7168, 48, 56), "mpt-13b": (5120, 40, 40), "mpt-7b": (4096, 32, 32),
    "mpt-3b": (2560, 32, 20), "mpt-1b": (2048, 24, 16),
    "mpt-760m": (1536, 24, 12), "mpt-350m": (1024, 24, 16), "mpt-125m": (768, 12, 12),
}  # fmt: skip
LLAMA = {  # width, layers, heads, key/value heads, hidden, vocabulary
    "llama3.1-8b": (4096, 32, 32, 8, 14336, 128256), "llama3.1-70b": (8192, 80, 64, 8, 28672, 128256),
    "llama3.1-405b": (16384, 126, 128, 8, 53248, 128256), "olmo-1b": (2048, 16, 16, 16, 8192, 100352),
    "olmo-7b": (4096, 32, 32, 32, 11008, 100352), "olmo-llama3-8b": (4096, 32, 32, 8, 14336, 100352),
    "olmo-13b": (5120, 40, 40, 40, 13824, 100352),
}  # fmt: skip


def throughput(rates: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    """Published tokens a second over the roofline's, for each rate that fits the devices as they are listed."""
    ratios = []
    for rate in rates:
        if (small := MPT.get(rate["model"])) is not None:
            dim, layers, heads = small
            shape = dict(
                dim=dim,
                layers=layers,
                heads=heads,
                kv_heads=heads,
                hidden=4 * dim,
                vocab_size=50432,
                gated=False,
            )
        else:
            dim, layers, heads, keys, hidden, words = LLAMA[rate["model"]]
            shape = dict(
                dim=dim,
                layers=layers,
                heads=heads,
                kv_heads=keys,
                hidden=hidden,
                vocab_size=words,
                tie_embeddings=False,
            )
        config = ModelConfig(context=rate["sequence"], head_dim=dim // heads, **shape)  # type: ignore[arg-type]
        count = rate["count"]
        rows = max(1, 2**22 // rate["sequence"] // count) * count
        cluster = hardware.Cluster(hardware.accelerators()[rate["accelerator"]], count)
        asked = search.Asked(
            config, rows, rate["sequence"], recompute=rate.get("recompute"), fp8=rate["fp8"], others=True
        )
        try:
            found = search.search(asked, cluster)
        except Exception:  # a code that keeps 16-bit weights and moments fits where float32 ones do not
            continue
        roofline = rows * rate["sequence"] / found.winner.step.seconds / count
        ratios.append((rate, rate["tokens_per_second"] / roofline))
    return ratios


def table(title: str, points: Sequence[Point]) -> None:
    print(
        f"\n{title}\n\n| run | devices | reported hours | planned | off | left out |\n|---|---|---:|---:|---:|---|"
    )
    for point in sorted(points, key=lambda one: (bool(one.cause), abs(one.off))):
        run = point.run
        devices = f"{run.get('count', '?')} {run['accelerator']}"
        print(
            f"| {run['name']} | {devices} | {run['hours']:,.0f} | {point.planned:,.0f} | {point.off:+.0%} | {point.cause} |"
        )


def svg(points: Sequence[Point]) -> str:
    """Planned against reported hours on logarithmic axes: the diagonal with 10% and, lighter, the 80% band."""
    size, edge = 520, 56
    low, high = 0.5, 8.0  # powers of ten

    def place(hours: float) -> float:
        return edge + (math.log10(hours) - low) / (high - low) * (size - 2 * edge)

    def stripe(under: float, over: float, colour: str) -> str:
        x0, x1 = place(10**low), place(10**high)
        corners = [
            (x0, size - place(10**low * under)), (x1, size - place(10**high * under)),
            (x1, size - place(10**high * over)), (x0, size - place(10**low * over)),
        ]  # fmt: skip
        return f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}" fill="{colour}"/>'

    band = (doubts()["practice"].band * doubts()["goodput"].band).inverse()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="sans-serif" font-size="12">',
        f'<rect width="{size}" height="{size}" fill="white"/>',
        stripe(band.expected / band.high, band.expected / band.low, "#e8eef7"),
        stripe(0.9, 1.1, "#b9cde8"),
    ]
    for power in range(1, 9):
        at = place(10.0**power)
        parts.append(f'<text x="{at:.0f}" y="{size - edge + 18}" text-anchor="middle">1e{power}</text>')
        parts.append(f'<text x="{edge - 8}" y="{size - at + 4:.0f}" text-anchor="end">1e{power}</text>')
    for point in sorted(points, key=lambda one: not one.cause):
        x, y = place(point.run["hours"]), size - place(point.planned)
        colour = "#bbbbbb" if point.cause else "#c0392b" if "experts" in point.run else "#1f4e8c"
        label = f"{point.run['name']}: {point.run['hours']:,.0f} reported, {point.planned:,.0f} planned {point.cause}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{label}</title></circle>'
        )
    middle = size / 2
    parts += [
        f'<text x="{middle}" y="{size - 12}" text-anchor="middle">device-hours reported</text>',
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">device-hours planned</text>',
        f'<text x="{edge + 8}" y="24">blue: dense; red: experts; grey: left out; stripes: 10% and the 80% band</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def published() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((HERE / "published_runs.yaml").read_text(encoding="utf-8"))
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--svg", type=Path, help="write the plot here")
    asked = parser.parse_args()
    data = published()
    ratios = sorted(ratio for _, ratio in throughput(data["throughput"]))
    spread = statistics.pstdev(map(math.log, ratios))
    print(f"throughput: {len(ratios)} rates reach {statistics.median(ratios):.2f} of the roofline (median), ")
    print(
        f"{ratios[len(ratios) // 10]:.2f} to {ratios[-len(ratios) // 10 - 1]:.2f} in the middle 80%, spread {spread:.0%}"
    )
    known = [given(run) for run in data["runs"] if "quoted" in run and run.get("left_out") != "low"]
    table("utilisation given", known)
    print(f"\nmedian error {error(headline(known)):.1%} of {len(headline(known))} runs")
    bare = bare_hours(data["runs"])
    points = predicted(bare)
    table("predicted", points)
    chosen = headline(points)
    print(f"\nmedian error {error(chosen):.1%} of {len(chosen)} runs")
    inner, outer = frozen(bare)
    print(
        f"frozen split: constant of {len(inner)} runs (median error {error(inner):.1%}) on the {len(outer)} of other "
        f"organisations: median error {error(outer):.1%}"
    )
    shares = [share for _, share in reached(bare)]
    low, high = ends(shares)
    print(
        f"shares of the roofline: median {statistics.median(shares):.3f}, ends of the band {low:.3f} and {high:.3f}"
    )
    odd, even = halves(bare)
    for what, inside in (
        ("the band of doubts.yaml, taken from them", held(chosen)),
        ("each organisation in the band of all others", crossed(bare)),
        ("the odd half in the band of the even one", odd),
        ("the even half in the band of the odd one", even),
        ("each half in the band of the other", odd + even),
    ):
        organisations, yes = zip(*inside, strict=True)
        interval = share_interval(by_cluster(organisations, yes, [1.0] * len(yes)))
        print(
            f"{what}: {sum(yes)} of {len(yes)}, {covered(inside):.0%} [{interval.low:.0%}, {interval.high:.0%}]"
        )
    if asked.svg:
        asked.svg.write_text(svg(points), encoding="utf-8")


if __name__ == "__main__":
    main()
