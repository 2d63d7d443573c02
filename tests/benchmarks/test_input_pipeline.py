"""What the input benchmark makes of its figures."""

from __future__ import annotations

import argparse

import input_pipeline


def test_cores_to_feed_devices(capsys):
    """2 ms of CPU an image and 500 images of each domain a second are 2 cores; the host's part takes half."""
    figures = {
        "tfaclgan": [[0.001, 0.002]] * 3,
        "host's part": [[0.0005, 0.001]] * 3,
        "Pillow": [[0.005, 0.005]] * 3,
    }
    input_pipeline.report(figures, argparse.Namespace(size=256, augment="council", rounds=3, rate=500.0))
    printed = capsys.readouterr().out
    assert "5.00 times the images/s" in printed
    assert "500 images/s of each domain, augmentation on the host: 2.0 cores" in printed
    assert "500 images/s of each domain, --augment_on=device: 1.0 cores" in printed
