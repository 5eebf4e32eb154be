"""What is said of the share of the peak: by several profiles, and their median decides."""

from __future__ import annotations

import pytest

from benchmarks.facts import GEMM_PEAK, Fact, judged_products, render
from tunesmith.report_profile import Group


def _group(of_peak: float, name: str = "k") -> Group:
    return Group(
        name=name, kind="gemm", is_kernel=True, calls=12, seconds=0.01, share=0.5, flops=10**9,
        nbytes=10**6, least_needed=0.01 * of_peak, bound="compute", sources=(f"node {name}",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "passed"),
    [((0.73, 0.89, 0.91), True), ((0.73, 0.87, 0.91), False), ((GEMM_PEAK,) * 3, True)],
)
def test_the_median_decides_and_the_range_is_told(shares: tuple[float, ...], passed: bool) -> None:
    bursts = [[_group(share), _group(share, "l")] for share in shares]
    whole, *each = judged_products(bursts, [80.0, 110.0, 120.0], 1.25)
    assert whole.passed == passed
    middle = sorted(shares)[1]
    assert whole.found == f"{middle:.1%} ({min(shares):.1%} to {max(shares):.1%})"
    assert "110 GFLOP/s (80 to 120)" in whole.how and "used 1.25 CPUs" in whole.how
    assert [fact.found for fact in each] == [whole.found] * 2
    assert [fact.bound for fact in each] == ["", ""], "only all layers together have a bound"
    text = render([whole], {"cpu": "a CPU"})
    assert ("PASSED" in text, "FAILED" in text) == (passed, not passed)


def test_the_page_tells_bounds_from_figures() -> None:
    rows = [Fact("a", "<= 1", "2", False, "how"), Fact("b", "", "3", True, "")]
    assert "| a | <= 1 | 2 | FAILED | how |\n| b |  | 3 |  |  |" in render(rows, {})
