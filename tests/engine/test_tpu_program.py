"""What a TPU program's text says of its operations, on texts written out here as the compiler writes them."""

from __future__ import annotations

import pytest

from tfaclgan.engine import tpu_program

ESTIMATED = """
%body (p: f32[8]) -> f32[8] {
  ROOT %b = f32[8] fusion(%p), metadata={op_name="g/up0_conv/Conv2D"}, backend_config={"estimated_cycles":"5"}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %c = f32[8] fusion(%a), metadata={op_name="g_1/stem_conv_3/Conv2D"}, backend_config={"estimated_cycles":"70"}
  %d = f32[8] fusion(%c), metadata={op_name="g_2/stem_conv_12/Conv2D"}, backend_config={"estimated_cycles":"30"}
  %e = f32[8] copy(%d), backend_config={"estimated_cycles":"9"}
  %f = f32[8] copy(%e), backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %w = f32[8] while(%f), condition=%more, body=%body, backend_config={"known_trip_count":{"n":"4"}}
}
"""
KIB = 1024  # of a bf16[8,64]
PROGRAM = """
%inner (param_0.2: bf16[8,64]) -> bf16[2,64] {
  %param_0.2 = bf16[8,64]{1,0} parameter(0)
  ROOT %s = bf16[2,64]{1,0} slice(%param_0.2), slice={[0:2], [0:64]}
}

%sliced (param_0: bf16[8,64], param_1: bf16[8,64]) -> bf16[2,64] {
  %param_0 = bf16[8,64]{1,0} parameter(0)
  %param_1 = bf16[8,64]{1,0} parameter(1)
  %t = bf16[2,64]{1,0} slice(%param_1), slice={[2:4], [0:64]}
  %n = bf16[2,64]{1,0} fusion(%param_0), kind=kLoop, calls=%inner
  ROOT %r = bf16[2,64]{1,0} add(%n, %t)
}

%product (param_0.1: bf16[8,64], param_1.1: bf16[64,64]) -> bf16[8,64] {
  %param_0.1 = bf16[8,64]{1,0} parameter(0)
  %param_1.1 = bf16[64,64]{1,0} parameter(1)
  ROOT %c = bf16[8,64]{1,0} convolution(%param_0.1, %param_1.1), dim_labels=bf_io->bf
}

%update (param_0.3: bf16[8,64], param_1.3: bf16[1,64]) -> bf16[8,64] {
  %param_0.3 = bf16[8,64]{1,0} parameter(0)
  %param_1.3 = bf16[1,64]{1,0} parameter(1)
  %zero = s32[] constant(0)
  ROOT %u = bf16[8,64]{1,0} dynamic-update-slice(%param_0.3, %param_1.3, %zero, %zero)
}

ENTRY %main (a: bf16[8,64], b: bf16[64,64], v: bf16[1,64]) -> bf16[8,64] {
  %a = bf16[8,64]{1,0} parameter(0)
  %b = bf16[64,64]{1,0} parameter(1)
  %v = bf16[1,64]{1,0} parameter(2)
  %near = (bf16[8,64]{1,0:S(1)}, bf16[8,64]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %there = bf16[8,64]{1,0:S(1)} copy-done(%near)
  %part = ((bf16[8,64]{1,0}), bf16[2,64]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:2], [0:64]}
  %mixed = bf16[2,64]{1,0} fusion(%a, %there), kind=kLoop, calls=%sliced, metadata={op_name="g/mixed"}
  %p = bf16[8,64]{1,0} fusion(%there, %b), calls=%product, metadata={op_name="g/p"}, config={"estimated_cycles":"70"}
  %two = (bf16[8,64]{1,0}, bf16[8,64]{1,0:S(1)}) fusion(%p), kind=kLoop, calls=%elsewhere, metadata={op_name="g/two"}
  %one = bf16[8,64]{1,0} get-tuple-element(%two), index=0
  %space = bf16[8,64]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %w = bf16[8,64]{1,0} fusion(%one, %v), kind=kLoop, calls=%update, metadata={op_name="g/w"}
}
"""


def test_the_compiler_s_cycles_are_added_up_by_layer():
    assert list(tpu_program.cycles(tpu_program.operations(ESTIMATED)).items()) == [
        ("g/stem_conv/Conv2D", 100),
        ("g/up0_conv/Conv2D", 20),
        ("unnamed", 9),
    ]
    assert tpu_program.operations("") == []


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        ("bf16[8,64]{1,0}", 2 * 8 * 64),
        ("f32[6,64]{1,0:T(8,128)}", 4 * 8 * 128),
        ("bf16[8,30,30,3]{3,0,2,1:T(8,128)(2,1)}", 2 * 30 * 30 * 8 * 128),
        ("bf16[8,30,30,3]{0,3,2,1:T(4,128)(2,1)}", 2 * 30 * 30 * 4 * 128),
        ("f32[5]{0:T(128)}", 4 * 128),
        ("f32[]{:T(128)}", 4),
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", 0),
        ("(f32[8,128]{1,0:T(8,128)}, pred[8,128]{1,0:T(8,128)(4,1)}, u32[]{:S(2)})", 5 * 8 * 128),
    ],
)
def test_arrays_take_whole_tiles(array, expected):
    assert tpu_program.array_bytes(array) == expected


def test_what_goes_to_and_from_memory():
    found = tpu_program.operations(PROGRAM)
    assert [operation.memory_bytes for operation in found] == pytest.approx([
        KIB,  # to vector memory: read, not written
        KIB / 4,  # a slice of it
        KIB / 4 + KIB / 4,  # a slice of the first operand; the second is in vector memory
        8 * KIB + KIB,  # the kernel and the result; the picture is in vector memory
        KIB + KIB,  # of two results one goes to memory
        KIB / 8 + KIB / 8,  # a row, written into what is there
    ])  # fmt: skip
    assert [operation.beside for operation in found] == [True, True, False, False, False, False]
    assert [operation.product for operation in found] == [False, False, False, True, False, False]
    assert [operation.layer for operation in found if operation.cycles] == ["g/p"]
