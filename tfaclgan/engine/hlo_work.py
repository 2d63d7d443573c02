"""How much work the convolutions and matrix products of an HLO program are, read from its text."""

from __future__ import annotations

import functools
import math
import re
from typing import NamedTuple

_SHAPE = re.compile(r"\w+\[([\d,]*)\]")
_OPERAND = re.compile(r"%?([\w.-]+)\s*$")
_DEFINITION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = \w+\[([\d,]*)\]")
_OPERATION = re.compile(r"= \w+\[([\d,]*)\]\S* (convolution|dot)\((.*?)\)(?:, (.*))?$")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window={([^}]*)}")
_WIDTHS = {"pred": 1, "bf16": 2}
_CONTRACTED = re.compile(r"lhs_contracting_dims={([\d,]*)}")


class Product(NamedTuple):
    """One convolution or matrix product.

    pairs: how many times an input's place meets a kernel's, over batch, places and taps; zeros of padding and
        dilation are not met.
    inputs, outputs: feature dimensions, as the operation contracts and makes them.
    sides: the two dimensions that a matrix unit holds, if they are not those: a kernel's gradient contracts the batch's
        images and places, and its features are the kernel's own.
    """

    pairs: float
    inputs: int
    outputs: int
    sides: tuple[int, int] | None = None

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.pairs * self.inputs * self.outputs

    def padded_flops(self, lanes: int) -> float:
        """The same with both sides filled up to multiples of `lanes`, as a matrix unit does it.

        An estimate: a compiler may lay other dimensions on the unit.
        """
        first, second = self.sides or (self.inputs, self.outputs)
        return self.flops * round_up(first, lanes) * round_up(second, lanes) / (first * second)


def products(hlo_text: str) -> list[Product]:
    """All convolutions and matrix products of HLO in text form, in its order; each counts once, also in a loop's body.

    Operands may be written with their shapes or by name alone.
    """
    shapes: dict[str, list[int]] = {}
    found = []
    for line in hlo_text.splitlines():
        defined = _DEFINITION.match(line)
        if defined:
            shapes[defined[1]] = sides_of(defined[2])
        operation = _OPERATION.search(line)
        if not operation:
            continue
        output, kind, operands, attributes = sides_of(operation[1]), operation[2], operation[3], operation[4] or ""
        left_and_right = _operands(operands, shapes)
        if left_and_right is None:
            continue
        read = _convolution if kind == "convolution" else _dot
        found.append(read(*left_and_right, output, attributes))
    return found


def flops(hlo_text: str) -> float:
    """Operations of all convolutions and matrix products."""
    return sum(product.flops for product in products(hlo_text))


def sides_of(text: str) -> list[int]:
    """Of an array, from the text between its brackets."""
    return [int(side) for side in text.split(",") if side]


def _operands(text: str, shapes: dict[str, list[int]]) -> tuple[list[int], list[int]] | None:
    inline = _SHAPE.findall(text)
    if len(inline) > 1:
        return sides_of(inline[0]), sides_of(inline[1])
    named = [_OPERAND.search(part.strip()) for part in text.split(", ")]
    known = [shapes.get(name[1]) for name in named[:2] if name]
    return (known[0], known[1]) if len(known) == 2 and None not in known else None


def _convolution(left: list[int], right: list[int], output: list[int], attributes: str) -> Product:
    of_left, of_right, of_output = _LABELS.search(attributes).groups()
    image, kernel, result = (
        dict(zip(labels, sides, strict=True))
        for labels, sides in ((of_left, left), (of_right, right), (of_output, output))
    )
    window = _WINDOW.search(attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}
    pairs, taps, places = float(result["b"]), 1, 1
    for i, dimension in enumerate(sorted(label for label in of_output if label not in "bf")):
        low = int(settings["pad"].split("x")[i].split("_")[0]) if "pad" in settings else 0
        steps = (
            int(settings[name].split("x")[i]) if name in settings else 1
            for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        pairs *= _met(image[dimension], kernel[dimension], result[dimension], low, *steps)
        taps, places = taps * kernel[dimension], places * result[dimension]
    # Only a kernel's gradient has more taps, a map's places, than results, the kernel's.
    return Product(pairs, kernel["i"], kernel["o"], (result["b"], kernel["o"]) if taps > places else None)


@functools.cache
def _met(side: int, taps: int, places: int, low: int, stride: int, spread: int, step: int) -> int:
    """How often an output's place and a tap meet an input that is there, along one spatial dimension."""
    offsets = (place * stride + tap * step - low for place in range(places) for tap in range(taps))
    return sum(0 <= offset <= (side - 1) * spread and offset % spread == 0 for offset in offsets)


def _dot(left: list[int], right: list[int], output: list[int], attributes: str) -> Product:
    contracted = [left[int(d)] for d in _CONTRACTED.search(attributes)[1].split(",") if d]
    inputs, outputs = math.prod(contracted), output[-1] if output else 1
    return Product(math.prod(output) / outputs, inputs, outputs)


def element_bytes(kind: str) -> int:
    """Of an array's element, by its type in HLO: 2 for "bf16"."""
    return _WIDTHS.get(kind) or int(kind[1:]) // 8


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not smaller."""
    return -(-value // multiple) * multiple
