"""Accelerators by the names that people write, clusters from text and from files, and what is said about bad ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.errors import RecipeError
from trivium.plan import hardware
from trivium.plan.bands import Band, exactly, total
from trivium.plan.doubts import doubts

positive = st.floats(1e-6, 1e6)
bands = st.lists(positive, min_size=3, max_size=3).map(lambda ends: Band(*sorted(ends)))


@given(bands, bands)
def test_a_product_of_bands_is_wider_than_each_and_narrower_than_the_product_of_ends(
    one: Band, other: Band
) -> None:
    both = one * other
    assert both.expected == pytest.approx(one.expected * other.expected)
    for end, sign in (("low", 1), ("high", -1)):
        widths = [math.log(band.expected / getattr(band, end)) * sign for band in (one, other, both)]
        assert max(widths[:2]) - 1e-9 <= widths[2] <= widths[0] + widths[1] + 1e-9


@given(bands)
def test_a_band_times_its_inverse_is_around_one_and_sums_keep_the_order(band: Band) -> None:
    assert (band * band.inverse()).expected == pytest.approx(1)
    assert total([band, exactly(2.0)]).high == pytest.approx(band.high + 2)


def test_a_band_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="no band"):
        Band(2, 1, 3)


def test_every_figure_of_the_files_has_a_source_that_is_listed() -> None:
    for name in ("hardware.yaml", "prices.yaml"):
        loaded = yaml.safe_load((hardware.HERE / name).read_text())
        entries = loaded.get("accelerators", loaded.get("prices"))
        used = {value["source"] for entry in entries for value in entry.values() if isinstance(value, dict)}
        used |= {entry["source"] for entry in loaded.get("prices", [])}
        assert used <= set(loaded["sources"]), name
    assert all(doubt.source for doubt in doubts().values())
    known = hardware.accelerators()
    prices = yaml.safe_load((hardware.HERE / "prices.yaml").read_text())["prices"]
    assert {entry["accelerator"] for entry in prices} <= set(known)
    for device in known.values():  # peaks without sparsity, and rates in the units that they say
        assert 5e13 < device.peak < 5e15 and 1e10 < device.memory < 1e12 and 5e11 < device.bandwidth < 1e13
        assert device.fp8 is None or device.fp8 <= 2.1 * device.peak


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("8xH100", "h100-sxm", 8), ("h100", "h100-sxm", 1), ("1,024 x NVIDIA A100 80GB", "a100-sxm-80", 1024),
        ("16k×b200", "b200", 16_000), ("4*RTX 4090", "rtx4090", 4), ("256xTPU v5e", "tpu-v5e", 256), ("8xmi300", "mi300x", 8),
    ],
)  # fmt: skip
def test_clusters_are_read_as_people_write_them(text: str, name: str, count: int) -> None:
    found = hardware.cluster(text)
    assert (found.accelerator.id, found.count) == (name, count)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8xH10", "nearest: h100-pcie, h100-sxm"),
        ("0xH100", "no number of accelerators"),
        ("-2xH100", "no number"),
        ("2.5xH100", "no number"),
        ("1.2.3xH100", "no number"),
        ("2000000xH100", "from 1 to 1,000,000"),
        ("", "names no accelerator"),
        ("8x", "names no accelerator"),
    ],
)
def test_what_is_no_cluster_is_told_with_the_nearest_names(text: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        hardware.cluster(text)
    assert said in str(error.value)


@settings(max_examples=30)
@given(st.text(max_size=12))
def test_any_text_is_a_cluster_or_an_error_for_people(text: str) -> None:
    try:
        hardware.cluster(text)
    except RecipeError as error:
        assert error.fix


SHEETS = [  # names as people write them, and the peak with sparsity that the data sheet prints first
    ("our H100s", 1979, 80, 3350, 989), ("DGX node", 1979, 80, 3350, 989), ("a100 sxm", 624, 80, 2039, 312),
    ("Hopper", 1979, 141, 4800, 989), ("MI300X", 2614.9, 192, 5300, 1307), ("B200 HGX", 4500, 180, 7700, 2250),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sparse", "memory", "rate", "dense"), SHEETS, ids=[row[0] for row in SHEETS]
)
def test_a_peak_with_sparsity_is_told_and_the_dense_one_named(
    tmp_path: Path, name: str, sparse: float, memory: float, rate: float, dense: float
) -> None:
    file = tmp_path / "mine.yaml"

    def write(peak: float) -> None:
        device = f"name: {name}, bf16_dense_tflops: {peak}, memory_gb: {memory}, memory_gb_per_s: {rate}"
        file.write_text(f"accelerator: {{{device}}}\ncount: 8\n")

    write(sparse)
    with pytest.raises(RecipeError, match=r"without sparsity.*Write \d+") as raised:
        hardware.cluster(str(file))
    said = float(str(raised.value).split("Write ")[1].split()[0])
    assert said == pytest.approx(dense, rel=0.02)
    write(said)
    assert hardware.cluster(str(file)).accelerator.peak == said * 1e12


def test_no_accelerator_of_the_list_is_taken_for_a_sparse_one() -> None:
    for one in hardware.accelerators().values():
        hardware.Described(
            name=one.name,
            bf16_dense_tflops=one.peak / 1e12,
            memory_gb=one.memory / 1e9,
            memory_gb_per_s=one.bandwidth / 1e9,
        )


def test_a_file_describes_what_the_list_has_not(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "accelerator: {name: Mine, bf16_dense_tflops: 500, memory_gb: 96, memory_gb_per_s: 3000}\n"
        "count: 16\nper_node: 4\nnetwork_gbit_per_s: 200\nprice_usd_per_hour: [1, 2, 4]\n"
    )
    found = hardware.cluster(str(file))
    device = found.accelerator
    assert (found.count, device.peak, device.domain, device.network) == (16, 5e14, 4, 25e9)
    assert device.price == Band(1, 2, 4) and device.price_basis == "given in mine.yaml"


REST = "memory_gb: 96, memory_gb_per_s: 3000"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("count: 8\n", "Field required"), ("accelerator: h100\ncount: -1\n", "greater than 0"),
        ("accelerator: h100\ncount: 8\nprice_usd_per_hour: [3, 2, 1]\n", "no band"), ("- a\n", "mapping"),
        ("accelerator: h100\ncount: 8\ncolour: red\n", "Extra inputs"),
        ("accelerator: h100\ncount: 8\nper_nod: 8\n", "`per_node`"),
        (f"accelerator: {{name: Mine, bf16_dense_tflops: -5, {REST}}}\ncount: 8\n", "accelerator.bf16_dense_tflops"),
        ("\x00", "mine.yaml"),
        ("accelerator: h100\ncount: 8\nprice_usd_per_hour: -1\n", "mine.yaml:3"),
    ],
)  # fmt: skip
def test_a_bad_cluster_file_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as error:
        hardware.cluster(str(file))
    assert said in str(error.value)
