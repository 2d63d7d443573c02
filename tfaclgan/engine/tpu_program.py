"""What a program compiled for a TPU does, operation by operation, read from its optimised HLO text.

The compiler's own count of bytes ("bytes accessed") is no measure of memory traffic: it holds what stays in the core's
vector memory (memory space 1), which is most of it, and whole arrays where a slice is read, and not what fills up an
array to whole tiles.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from tfaclgan.engine.hlo_work import element_bytes, round_up, sides_of

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)\)?|\S+) ([\w-]+)\((.*)$")
_ARRAY = re.compile(r"(pred|bf16|[suf]\d+)\[([\d,]*)\](\{[^}]*\})?")
_LAYOUT = re.compile(r"\{([\d,]+):T\(([\d,]+)\)")
_NAME = re.compile(r"%([\w.-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_LAYER = re.compile(r'op_name="([^"]*)"')
_BODY = re.compile(r"body=%?([\w.-]+)")
_CALLED = re.compile(r"calls=%?([\w.-]+)")
_PARAMETER = re.compile(r"^(\d+)\)")
_TURNS = re.compile(r'"known_trip_count":{"n":"(\d+)"')
_NO_ESTIMATE = 10**12  # larger ones stand for "not known"
# They move nothing: names for arrays, and the ends of copies that are counted where they start.
_FREE = frozenset({
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "copy-done", "slice-done", "async-done",
    "all-reduce-done", "while", "after-all", "opt-barrier",
})  # fmt: skip
_FREE_CALLS = ('custom_call_target="AllocateBuffer"', 'custom_call_target="ConcatBitcast"')
_BESIDE = ("copy-start", "slice-start")
_SLICES = ("slice", "dynamic-slice")
_PRODUCTS = ("convolution", "dot")


class Operation(NamedTuple):
    """One scheduled operation, all its turns together where it stands in a loop.

    layer: its name in our code, without the numbers that TensorFlow and JAX give to repeated ones.
    product: whether a convolution or matrix product is in it.
    cycles: the compiler's estimate; 0 if there is none.
    memory_bytes: read from and written to the chip's memory.
    beside: whether it runs beside others: a copy to or from vector memory that ends when it is needed.
    """

    layer: str
    product: bool
    cycles: float
    memory_bytes: float
    beside: bool


class _Instruction(NamedTuple):
    name: str
    type: str
    kind: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.rest.split("), ")[0])


def operations(hlo_text: str) -> list[Operation]:
    """The operations of a program's entry and of its loops' bodies; loops turn as often as is known, else once."""
    computations, entry = _computations(hlo_text)
    found: list[Operation] = []
    todo = [(entry, 1)] if entry else []
    while todo:
        name, turns = todo.pop()
        types = {instruction.name: instruction.type for instruction in computations.get(name, ())}
        for instruction in computations.get(name, ()):
            body = _BODY.search(instruction.rest)
            if body:
                known = _TURNS.search(instruction.rest)
                todo.append((body[1], turns * int(known[1]) if known else turns))
            elif instruction.kind not in _FREE and not any(call in instruction.rest for call in _FREE_CALLS):
                found.append(_operation(instruction, types, computations, turns))
    return found


def cycles(found: list[Operation]) -> dict[str, float]:
    """{layer: estimated cycles}, most first."""
    layers: dict[str, float] = {}
    for operation in found:
        if operation.cycles:
            layers[operation.layer] = layers.get(operation.layer, 0.0) + operation.cycles
    return dict(sorted(layers.items(), key=lambda item: -item[1]))


def _computations(hlo_text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry = name = ""
    for line in hlo_text.splitlines():
        opened, instruction = _COMPUTATION.match(line), _INSTRUCTION.match(line)
        if opened:
            name = opened[2]
            computations[name] = []
            entry = name if opened[1] else entry
        elif instruction and name:
            computations[name].append(_Instruction(*instruction.groups()))
    return computations, entry


def _operation(
    instruction: _Instruction, types: dict[str, str], computations: dict[str, list[_Instruction]], turns: int
) -> Operation:
    inner = _called(instruction, computations)
    estimate = _CYCLES.search(instruction.rest)
    known = float(estimate[1]) if estimate and int(estimate[1]) < _NO_ESTIMATE else 0.0
    return Operation(
        _layer(instruction.rest),
        instruction.kind in _PRODUCTS or any(part.kind in _PRODUCTS for part in inner),
        turns * known,
        turns * _memory_bytes(instruction, types, computations),
        instruction.kind in _BESIDE,
    )


def _called(instruction: _Instruction, computations: dict[str, list[_Instruction]]) -> list[_Instruction]:
    called = _CALLED.search(instruction.rest)
    return computations.get(called[1], []) if called else []


def _memory_bytes(
    instruction: _Instruction, types: dict[str, str], computations: dict[str, list[_Instruction]]
) -> float:
    if instruction.kind in _BESIDE:  # its type has source and destination, one larger than moved
        ends = list(_ARRAY.finditer(instruction.type))[:2]
        return float(min(map(_size, ends)) * sum(_in_memory(end) for end in ends))
    inner = _called(instruction, computations)
    read = [array_bytes(types.get(name, "")) for name in instruction.operands]
    written = array_bytes(instruction.type)
    if instruction.kind in _SLICES:
        read[0] = min(read[0], _sizes(instruction.type))
    for place, size in _sliced(inner, computations).items():
        if place < len(read):
            read[place] = min(read[place], size)
    update = _updates_in_place(inner)
    if update is not None:  # the array that is written into stays where it is
        place, size = update
        if place < len(read):
            written = min(written, size)
            read[place] = 0
    return float(sum(read) + written)


def array_bytes(type_text: str) -> int:
    """Bytes in the chip's memory of an array or a tuple of arrays, by its type in HLO; 0 for vector memory."""
    return sum(_size(match) for match in _ARRAY.finditer(type_text) if _in_memory(match))


def _sizes(type_text: str) -> int:
    return sum(_size(match) for match in _ARRAY.finditer(type_text))


def _size(array: re.Match) -> int:
    """Bytes of an array as it lies in memory: its innermost dimensions are filled up to whole tiles.

    A picture's three channels can take the place of 128: the layout {3,0,2,1:T(8,128)} names dimensions from the
    innermost on, and tiles of 8 x 128 of the two innermost.
    """
    sides = sides_of(array[2])
    layout = _LAYOUT.match(array[3] or "")
    if layout and sides:
        order, tile = map(sides_of, layout.groups())
        for dimension, unit in zip(order, reversed(tile)):  # rank 1 has tiles of rank 1
            sides[dimension] = round_up(sides[dimension], unit)
    return max(1, element_bytes(array[1])) * math.prod(sides)


def _in_memory(array: re.Match) -> bool:
    return not re.search(r"S\([1-9]\d*\)", array[3] or "")


def _sliced(inner: list[_Instruction], computations: dict[str, list[_Instruction]]) -> dict[int, int]:
    """{place of a fusion's operand of which only slices are read: their bytes}."""
    places = _parameters(inner)
    sizes: dict[int, int] = {}
    whole: set[int] = set()
    for part in inner:
        within = _sliced(_called(part, computations), computations)
        for position, operand in enumerate(part.operands if part.kind != "parameter" else ()):
            if operand not in places:
                continue
            slices = _sizes(part.type) if part.kind in _SLICES and position == 0 else within.get(position)
            if slices is None:
                whole.add(places[operand])
            else:
                sizes[places[operand]] = sizes.get(places[operand], 0) + slices
    return {place: size for place, size in sizes.items() if place not in whole}


def _updates_in_place(inner: list[_Instruction]) -> tuple[int, int] | None:
    """(place of the operand, bytes of the part) if a fusion writes a part of one of its operands."""
    if not inner or inner[-1].kind != "dynamic-update-slice":
        return None
    target, part = inner[-1].operands[:2]
    types, places = {each.name: each.type for each in inner}, _parameters(inner)
    return (places[target], _sizes(types[part])) if target in places and part in types else None


def _parameters(inner: list[_Instruction]) -> dict[str, int]:
    return {part.name: int(_PARAMETER.match(part.rest)[1]) for part in inner if part.kind == "parameter"}


def _layer(attributes: str) -> str:
    named = _LAYER.search(attributes)
    parts = named[1].split(";")[0].split("/") if named else []
    return "/".join(re.sub(r"_\d+$", "", part) for part in parts) or "unnamed"
