"""What is held while the TPU's compiler works, run by test_tpu_compiler.py in a process of its own."""

from __future__ import annotations

import weakref

from test_tpu_compiler import made_up, run_and_settings

from tfaclgan.engine import tpu_compiler
from tfaclgan.training import tpu_check


def test_weights_are_gone_when_the_compiler_begins(monkeypatch):
    """U-GAT-IT's full networks with their optimiser's slots are 10 GB, and the compiler needs some itself."""
    made, seen = [], []
    true_engine = tpu_check._engine

    def noted(*arguments):
        subject = true_engine(*arguments)
        made.append(weakref.ref(subject))
        made.extend(weakref.ref(v) for network in subject.networks.values() for v in network.trainable_variables)
        return subject

    def compile_hlo(hlo, chip):
        assert b"critic" in hlo
        seen.append([held() for held in made])
        return made_up(4).iterations[0].compiled

    monkeypatch.setattr(tpu_check, "_engine", noted)
    monkeypatch.setattr(tpu_compiler, "compile_hlo", compile_hlo)
    found = tpu_check.check(*run_and_settings(), "v5e", 8, 4)
    assert [iteration.phases for iteration in found.iterations] == [("critic", "generator"), ("critic",)]
    assert len(seen) == 2
    assert len(made) > 4
    assert all(held is None for held in seen[0])
