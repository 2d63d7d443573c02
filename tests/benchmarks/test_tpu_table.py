"""benchmarks/tpu_table.py on a report as `--mode=tpu_check` printed it (28 November 2026)."""

from __future__ import annotations

import tpu_table

REPORT = """
generators + discriminators (1 of 1 data iterations)
  compiles      in 1935 s, 353 MiB of code
  memory        7.39 of 95 GiB: arguments 0.91, temporaries 6.14
  work          15.527 TFLOP, 77.02 GB to and from memory, 202 FLOP a byte (the chip balances at 166)
  at least      33.8 ms, bound by operations (operations 33.8, traffic 27.9)
  expected      63.2 ms: convolutions and products 46.6 by the compiler's estimate (73% of the peak), the rest 16.7
  padding       24% of the matrix unit's work, estimated from feature dimensions

A data iteration takes at least 34.2 ms (mean over the schedule's 1), so at most 1874 images of each domain a second.
With convolutions as slow as the compiler estimates them 63.6 ms are expected, 1007 images a second.
"""
FIGURES = "| cyclegan | v5p | 7.39 | 15.527 | 77.02 | 33.8 | 63.2 | 73% | 24% | 1935 | 1874 | 1007 |"


def test_a_row_has_each_figure_once():
    assert tpu_table.table({("cyclegan", "v5p"): REPORT}).splitlines()[-1] == FIGURES


def test_what_does_not_fit_says_so():
    assert "does not fit" in tpu_table.table({("ugatit", "v5e"): REPORT.split("A data iteration")[0]})
