"""The loops of `spreading`: Gaussians added to the samples of a grid that they cover, and gathered from them.

A Gaussian's row on the grid is added, or read, as one vector. Compilers do not see by themselves that rows and factors
do not overlap in memory and go number by number, four to six times as slowly; `add_rows` and `row_moments` therefore
say in LLVM's language what is meant.
"""

import math
from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from gaussemble.physics.loops import compiled

FAST = ("fast",)
WIDEST = 16  # numbers in a vector; compilers cut it to what a processor has


def _exponential(value):
    """The exponential of values <= 0, in compiled loops only."""


@overload(_exponential, inline="always")
@no_type_check
def _exponential_of(value):
    """In float32 a polynomial, which compilers turn into vector instructions: 2e-7 relative."""
    if value != types.float32:
        return lambda value: math.exp(value)

    def exponential(value):
        power = max(value * np.float32(1.4426950408889634), np.float32(-126.0))
        whole = np.floor(power + np.float32(0.5))
        rest = power - whole
        # 2^rest on [-1/2, 1/2]: Taylor's coefficients ln(2)^n / n!
        result = np.float32(1.5252733804e-5)
        result = result * rest + np.float32(1.5403530394e-4)
        result = result * rest + np.float32(1.3333558146e-3)
        result = result * rest + np.float32(9.6181291076e-3)
        result = result * rest + np.float32(5.5504108665e-2)
        result = result * rest + np.float32(2.4022650696e-1)
        result = result * rest + np.float32(6.9314718056e-1)
        result = result * rest + np.float32(1.0)
        return result * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)

    return exponential


# --- rows as vectors -------------------------------------------------------------------------------------------------


class _Vectors:
    """The numbers of a span, in memory at a pointer, as LLVM vectors of at most `WIDEST`."""

    def __init__(self, builder: Any, number: Any, span: Any):
        self.builder = builder
        self.align = 4 if number == types.float32 else 8  # arrays of NumPy start at any number
        element = ir.FloatType() if number == types.float32 else ir.DoubleType()
        firsts = range(0, len(span), WIDEST)
        self.parts = [(first, ir.VectorType(element, min(WIDEST, len(span) - first))) for first in firsts]

    def _place(self, pointer: Any, first: int, kind: Any) -> Any:
        moved = self.builder.gep(pointer, [ir.Constant(ir.IntType(64), first)])
        return self.builder.bitcast(moved, kind.as_pointer())

    def load(self, pointer: Any) -> list[Any]:
        """The vectors that stand at a pointer."""
        return [self.builder.load(self._place(pointer, *part), align=self.align) for part in self.parts]

    def store(self, values: list[Any], pointer: Any) -> None:
        """Vectors put to a pointer."""
        for value, part in zip(values, self.parts, strict=True):
            self.builder.store(value, self._place(pointer, *part), align=self.align)

    def zeros(self) -> list[Any]:
        """Variables of vectors, zero; they become registers."""
        variables = [cgutils.alloca_once(self.builder, kind) for _, kind in self.parts]
        for variable, (_, kind) in zip(variables, self.parts, strict=True):
            self.builder.store(ir.Constant(kind, None), variable)
        return variables

    def plus_scaled(self, values: list[Any], factor: Any, others: list[Any]) -> list[Any]:
        """The sums values + factor others."""
        builder, result = self.builder, []
        for value, other, (_, kind) in zip(values, others, self.parts, strict=True):
            empty = ir.Constant(kind, ir.Undefined)
            one = builder.insert_element(empty, factor, ir.Constant(ir.IntType(32), 0))
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
            spread = builder.shuffle_vector(one, empty, everywhere)
            result.append(builder.fadd(value, builder.fmul(spread, other, flags=FAST), flags=FAST))
        return result


def _data(context: Any, builder: Any, kinds: tuple[Any, ...], arrays: tuple[Any, ...]) -> list[Any]:
    """Pointers to the first numbers of arrays."""
    return [context.make_array(kind)(context, builder, array).data for kind, array in zip(kinds, arrays, strict=True)]


@intrinsic
@no_type_check
def add_rows(typing_context, grid, start, stride, rows, along_y, along_x, span):
    """grid[start + j stride + i] += along_y[j] along_x[i] for i below the length of `span` and j below `rows`."""
    whole = types.int64

    def generate(context, builder, signature, arguments):
        start, stride, rows = arguments[1:4]
        samples, weights, factors = _data(context, builder, (grid, along_y, along_x), (arguments[0], *arguments[4:6]))
        vectors = _Vectors(builder, grid.dtype, span)
        row_factor = vectors.load(factors)
        with cgutils.for_range(builder, rows) as loop:
            place = builder.gep(samples, [builder.add(start, builder.mul(loop.index, stride))])
            weight = builder.load(builder.gep(weights, [loop.index]))
            vectors.store(vectors.plus_scaled(vectors.load(place), weight, row_factor), place)
        return context.get_dummy_value()

    return types.void(grid, whole, whole, whole, along_y, along_x, span), generate


@intrinsic
@no_type_check
def row_moments(typing_context, grid, start, stride, rows, along_y, offset, zeroth, first, second, span):
    """The sums over rows j of along_y[j] d^p grid[start + j stride + i], d = offset + j, for p = 0, 1 and 2."""
    whole = types.int64

    def generate(context, builder, signature, arguments):
        start, stride, rows, _, offset = arguments[1:6]
        kinds, arrays = (grid, along_y, zeroth, first, second), (arguments[0], arguments[4], *arguments[6:9])
        samples, weights, *results = _data(context, builder, kinds, arrays)
        vectors = _Vectors(builder, grid.dtype, span)
        sums = [vectors.zeros() for _ in results]
        with cgutils.for_range(builder, rows) as loop:
            row = vectors.load(builder.gep(samples, [builder.add(start, builder.mul(loop.index, stride))]))
            weight = builder.load(builder.gep(weights, [loop.index]))
            distance = builder.fadd(offset, builder.sitofp(loop.index, offset.type), flags=FAST)
            for variables in sums:
                values = vectors.plus_scaled([builder.load(one) for one in variables], weight, row)
                for value, variable in zip(values, variables, strict=True):
                    builder.store(value, variable)
                weight = builder.fmul(weight, distance, flags=FAST)
        for variables, result in zip(sums, results, strict=True):
            vectors.store([builder.load(one) for one in variables], result)
        return context.get_dummy_value()

    arrays = (zeroth, first, second)
    return types.void(grid, whole, whole, whole, along_y, grid.dtype, *arrays, span), generate


# --- Gaussians -------------------------------------------------------------------------------------------------------


@compiled
@no_type_check
def _corner(x, y, width, cut, columns):
    """1 / 2 width², the sample rows within the cut on each side, and the first column and row of a Gaussian's samples.

    Positions are positive, so that cutting off their fraction rounds them down.
    """
    half = np.float32(0.5) / (width * width)
    reach = min(np.int64(cut * width) + 1, columns // 2)
    return half, reach, np.int64(x) - columns // 2 + 1, np.int64(y) - reach + 1


@compiled
@no_type_check
def _factor(factor, span, height, offset, half):
    """A height times exp(-d² half) at the distances d = offset, offset + 1, ..."""
    for i in range(len(span)):
        distance = offset + factor.dtype.type(i)
        factor[i] = height * _exponential(-distance * distance * half)


@compiled
@no_type_check
def add(grid, x, y, amplitude, width, cut, above, upto, span):
    """Add the Gaussians of widths in (above, upto] to grids, each as wide as `span`, a tuple so that compilers know it.

    Positions and widths are in samples of the grid, whose margin lets every Gaussian's samples lie in it; `cut` is in
    widths.
    """
    columns, real, stride = len(span), grid.dtype.type, grid.shape[2]
    along_x, along_y = np.empty(columns, grid.dtype), np.empty(columns, grid.dtype)
    for image in range(x.shape[0]):
        samples = grid[image].reshape(-1)
        for number in range(x.shape[1]):
            center_x, center_y, sigma = x[image, number], y[image, number], width[image, number]
            if not above < sigma <= upto:
                continue
            half, reach, left, top = _corner(center_x, center_y, sigma, cut, columns)
            height = amplitude[image, number] * half * real(1 / math.pi)
            _factor(along_x, span, height, real(left) - center_x, half)
            _factor(along_y, span, real(1), real(top) - center_y, half)
            add_rows(samples, top * stride + left, stride, 2 * reach, along_y, along_x, span)


@compiled
@no_type_check
def gather(grid, x, y, amplitude, width, cut, above, upto, span, by_x, by_y, by_amplitude, by_width):
    """Derivatives of `sum grid * samples` with respect to each parameter of the same Gaussians."""
    columns, real, stride = len(span), grid.dtype.type, grid.shape[2]
    along_y = np.empty(columns, grid.dtype)
    zeroth, first, second = np.empty(columns, grid.dtype), np.empty(columns, grid.dtype), np.empty(columns, grid.dtype)
    for image in range(x.shape[0]):
        samples = grid[image].reshape(-1)
        for number in range(x.shape[1]):
            center_x, center_y, sigma = x[image, number], y[image, number], width[image, number]
            if not above < sigma <= upto:
                continue
            half, reach, left, top = _corner(center_x, center_y, sigma, cut, columns)
            offset = real(top) - center_y
            _factor(along_y, span, real(1), offset, half)
            row_moments(samples, top * stride + left, stride, 2 * reach, along_y, offset, zeroth, first, second, span)
            total, moment_x, moment_y, moment_r = real(0), real(0), real(0), real(0)
            for i in range(columns):
                distance = real(left) - center_x + real(i)
                weight = _exponential(-distance * distance * half)
                total += weight * zeroth[i]
                moment_x += weight * distance * zeroth[i]
                moment_y += weight * first[i]
                moment_r += weight * (distance * distance * zeroth[i] + second[i])
            norm = half * real(1 / math.pi)
            scale = amplitude[image, number] * norm
            by_amplitude[image, number] = norm * total
            by_x[image, number] = real(2) * scale * half * moment_x
            by_y[image, number] = real(2) * scale * half * moment_y
            by_width[image, number] = real(2) * scale * (half * moment_r - total) / sigma


@compiled
@no_type_check
def add_tangents(grid, x, y, amplitude, width, rate, cut, above, upto, span):
    """Add the derivatives of the same Gaussians along changes (image, tangent, number) of x, y, amplitude and width.

    A sample's derivative is `(c + c_x d_x + c_y d_y + c_r |d|²) g(d_x) g(d_y)`: two products of a row and a column.
    """
    columns, real, stride = len(span), grid.dtype.type, grid.shape[3]
    along_x, along_y = np.empty(columns, grid.dtype), np.empty(columns, grid.dtype)
    slope_x, slope_y = np.empty(columns, grid.dtype), np.empty(columns, grid.dtype)
    for image in range(x.shape[0]):
        for number in range(x.shape[1]):
            center_x, center_y, sigma = x[image, number], y[image, number], width[image, number]
            if not above < sigma <= upto:
                continue
            half, reach, left, top = _corner(center_x, center_y, sigma, cut, columns)
            norm, offset_x, offset_y = half * real(1 / math.pi), real(left) - center_x, real(top) - center_y
            height = amplitude[image, number] * norm
            _factor(along_x, span, real(1), offset_x, half)
            _factor(along_y, span, real(1), offset_y, half)
            for tangent in range(grid.shape[1]):
                samples = grid[image, tangent].reshape(-1)
                rate_x, rate_y, rate_a, rate_w = rate[image, tangent, number]
                wider = real(2) * height * rate_w / sigma
                flat, by_r = norm * rate_a - wider, wider * half
                by_x, by_y = real(2) * half * height * rate_x, real(2) * half * height * rate_y
                for i in range(columns):
                    distance = offset_x + real(i)
                    slope_x[i] = along_x[i] * (flat + distance * (by_x + distance * by_r))
                for j in range(columns):
                    distance = offset_y + real(j)
                    slope_y[j] = along_y[j] * distance * (by_y + distance * by_r)
                add_rows(samples, top * stride + left, stride, 2 * reach, along_y, slope_x, span)
                add_rows(samples, top * stride + left, stride, 2 * reach, slope_y, along_x, span)
