// FqVitLayerNorm of rows (ops/fqvit_layernorm/SPEC.md). The definition rounds five times on the way
// to a code; computed directly that is two 64-bit divisions per element. Here float32 gives the
// value before the last rounding together with a bound of its error, and the definition decides
// only where a rounding boundary lies within the bound.
//
// With A = abs(mant) * 2^(h-p) / root and 2^E <= A < 2^(E+1), the definition's M * 2^-N is A with
// its mantissa cut to 8 bits, if 0 <= 7 - E <= 31 and a has 8 bits or more; a float cuts by a mask.
// Its N is 7 - E, and line 7 rounds
//     v = cut(A) * q + bq / 2^20 - A * s1 / C      (A with the sign of mant)
// up to: 0.504 * 2^-N, the roundings of B, of u and of the shifted bq (line 6);
// 2^w * abs(s1 / C), because a is A / 2^w cut to an integer; and where N stops at 31 or a has fewer
// than 8 bits, M * 2^-N is no more than 2^w + 2^-30 away from cut(A), times abs(q) <= 2^15.
// Errors of float32, with u = 2^-24: A is off by a factor 1 +- 3.1 u, the mean by 1 +- u; bq / 2^20
// by u of itself; each sum by u of its result. cut(A) * q has 24 bits and is exact.
#pragma once

#include "ops/fqvit_layernorm/kernel.h"
#include "ops/native/cpu/layernorm_job.h"
#include "ops/native/cpu/path/layernorm_rows.h"

namespace mnq {
namespace MNQ_PATH {

constexpr float code_unit = 65536.0f;  // codes are computed with 16 fractional bits

// Rows of a batch. A row that floats cannot serve has a slope of 0: all its codes are in doubt.
struct FqVitBatch {
  FqVitRow exact[row_batch];
  float slope[row_batch];       // 2^(h-p) / root, times code_unit
  float minus_mean[row_batch];  // -s1 / C
  int32_t bound[row_batch];     // of the error of a code with 16 fractional bits, < 2^14
  bool clamps;  // some value may leave int16, or [lo, hi] is not all of the output's type
};

MNQ_INNER double exact_power_of_two(int64_t k) {  // -1022 <= k <= 1023
  const int64_t bits = (k + 1023) << 52;
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

MNQ_INNER void add_floats(FqVitBatch& batch, int64_t i, const LayerNormConstants& c) {
  const FqVitRow& row = batch.exact[i];
  const double mean = static_cast<double>(row.sum) / static_cast<double>(c.columns);
  const double size = mean < 0 ? -mean : mean;
  const double unit = exact_power_of_two(row.unit);  // 2^w
  const double slope = unit * 2147483648.0 / static_cast<double>(row.root);
  const double steepest = 1.000001 * slope * static_cast<double>(c.largest_slope);  // of all A
  int64_t bits;
  std::memcpy(&bits, &steepest, sizeof bits);
  const double coarsest = exact_power_of_two((bits >> 52) - 1023 - 7);  // 2^-N where largest
  const double largest = steepest * (size + 32768.0) + static_cast<double>(c.largest_bias);
  const double code = 2.0 + static_cast<double>(most(c.hi, -static_cast<int64_t>(c.lo)));
  const double terms =
      2.2 * static_cast<double>(c.largest_bias) + 7.3 * steepest * size + 1.1 * code;
  const double bound = 0.504 * (coarsest > 4.7e-10 ? coarsest : 4.7e-10) +  // 2^-31
                       unit * (size + 32768.0) + 3.1e-5 + terms / 16777216.0;
  // Where A reaches 2^8, N is 0 and M stops at 255.
  const bool usable = row.variance > 0 && steepest < 256.0 && bound < 0.2;
  batch.clamps |= largest > 32000.0;
  batch.slope[i] = usable ? static_cast<float>(slope) * code_unit : 0.0f;
  batch.minus_mean[i] = static_cast<float>(-mean);
  batch.bound[i] = usable ? static_cast<int32_t>(bound * code_unit) + 3 : 0;
}

struct FqVitColumnLanes {
  Floats slope, bias;
};

struct FqVitRowLanes {
  Floats slope, minus_mean;
  Lanes bound;
};

struct FqVitLimits {
  explicit FqVitLimits(const LayerNormConstants& c)
      : lo(repeat(static_cast<float>(c.lo) * code_unit)),
        hi(repeat(static_cast<float>(c.hi) * code_unit)) {}
  Floats lo, hi;
};

MNQ_INNER FqVitRowLanes load_row(const FqVitBatch& batch, int64_t i) {
  return {repeat(batch.slope[i]), repeat(batch.minus_mean[i]), repeat(batch.bound[i])};
}

// Codes; adds those in doubt to `doubt`.
template <bool clamps, class Q>
MNQ_INNER Lanes estimate_lanes(const Q* q, const FqVitRowLanes& row,
                               const FqVitColumnLanes& column, const FqVitLimits& limits,
                               Doubt& doubt) {
  const Floats a = column.slope * row.slope;
  // Within 4 units of a multiple of its last kept bit, the true A might be cut to another value.
  const Lanes near_cut = add(bits_of(a), repeat(4));
  const Floats cut = keep_bits(a, repeat(-65536));
  const Floats offset = multiply_add(a, row.minus_mean, column.bias);
  Floats value = multiply_add(cut, floats(widen(q)), offset);
  // The limits are integers, next to which a code is beyond doubt.
  if (clamps) value = smaller(larger(value, limits.lo), limits.hi);
  // Plus a half, which is 2^15, and the bound: values in doubt are then below twice the bound.
  const Lanes shifted = add(integers(value), add(row.bound, repeat(1 << 15)));
  doubt = doubts(doubt, near_cut, repeat(8), shifted, add(row.bound, row.bound));
  return shift_right<16>(shifted);
}

template <class Q>
MNQ_INNER int64_t fqvit_exact_code(const Q* q, const FqVitRow& row, int64_t j,
                                   const LayerNormConstants& c) {
  return clamp(fqvit_layernorm_raw(q[j], row, c.columns, c.m[j], c.bq[j]), c.lo, c.hi);
}

// Lanes in doubt of a row's columns from j on: by the definition.
template <class Q, class Y>
static void settle(Doubt doubt, const Q* q, Y* y, const FqVitRow& row, int64_t j,
                   const LayerNormConstants& c) {
  for (uint32_t bits = bits_of(doubt); bits != 0; bits &= bits - 1) {
    const int64_t at = j + __builtin_ctz(bits) / doubt_bits;
    if (at < c.columns) y[at] = static_cast<Y>(fqvit_exact_code(q, row, at, c));
  }
}

// Row i, columns [j, j + 4 * lanes), some of them in doubt. Out of line: seldom needed.
template <bool clamps, class Q, class Y>
static __attribute__((noinline)) void settle_four(const Q* q, Y* y, const FqVitBatch& batch,
                                                  int64_t i, int64_t j,
                                                  const LayerNormConstants& c) {
  for (int64_t end = j + 4 * lanes; j < end; j += lanes) {
    Doubt doubt = no_doubt();
    const FqVitColumnLanes column = {load(c.slope + j), load(c.bias + j)};
    estimate_lanes<clamps>(q + j, load_row(batch, i), column, FqVitLimits(c), doubt);
    settle(doubt, q, y, batch.exact[i], j, c);
  }
}

// Columns [j, j + 4 * lanes) of all rows: their constants stay in registers.
template <bool clamps, class Q, class Y>
MNQ_INNER void estimate_four(const Q* q, Y* y, int64_t rows, const FqVitBatch& batch, int64_t j,
                             const LayerNormConstants& c) {
  FqVitColumnLanes columns[4];
  for (int g = 0; g < 4; ++g) {
    columns[g] = {load(c.slope + j + g * lanes), load(c.bias + j + g * lanes)};
  }
  const FqVitLimits limits(c);
  const int64_t stride = c.columns;
  for (int64_t i = 0; i < rows; ++i, q += stride, y += stride) {
    const FqVitRowLanes row = load_row(batch, i);
    Lanes codes[4];
    Doubt doubt = no_doubt();
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      codes[g] = estimate_lanes<clamps>(q + j + g * lanes, row, columns[g], limits, doubt);
    }
    store_four(y + j, codes);
    if (__builtin_expect(any(doubt), 0)) settle_four<clamps>(q, y, batch, i, j, c);
  }
}

// Columns [j, j + count) of all rows, count <= lanes.
template <bool clamps, class Q, class Y>
MNQ_INNER void estimate_part(const Q* q, Y* y, int64_t rows, const FqVitBatch& batch, int64_t j,
                             int64_t count, const LayerNormConstants& c) {
  const FqVitColumnLanes column = {load(c.slope + j), load(c.bias + j)};
  const FqVitLimits limits(c);
  for (int64_t i = 0; i < rows; ++i, q += c.columns, y += c.columns) {
    Q part[lanes] = {};
    Y codes[lanes];
    Doubt doubt = no_doubt();
    std::memcpy(part, q + j, count * sizeof(Q));
    store(codes, estimate_lanes<clamps>(part, load_row(batch, i), column, limits, doubt));
    std::memcpy(y + j, codes, count * sizeof(Y));
    settle(doubt, q, y, batch.exact[i], j, c);
  }
}

template <bool clamps, class Q, class Y>
static void estimate_batch(const Q* q, Y* y, int64_t rows, const FqVitBatch& batch,
                           const LayerNormConstants& c) {
  int64_t j = 0;
  for (; j + 4 * lanes <= c.columns; j += 4 * lanes) {
    estimate_four<clamps>(q, y, rows, batch, j, c);
  }
  for (; j < c.columns; j += lanes) {
    const int64_t count = c.columns - j < lanes ? c.columns - j : lanes;
    estimate_part<clamps>(q, y, rows, batch, j, count, c);
  }
}

// Lines 1 and 2 of all rows.
template <class Q>
MNQ_INNER void find_rows(const Q* q, int64_t rows, const LayerNormConstants& c,
                         FqVitBatch& batch) {
  double sum[row_batch] = {}, squares[row_batch] = {}, root[row_batch] = {};
  for (int64_t i = 0; i < rows; ++i) {
    add_row(q + i * c.columns, c.columns, sum[i], squares[i]);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t s1 = static_cast<int64_t>(sum[i]);
    const int64_t variance = c.columns * static_cast<int64_t>(squares[i]) - s1 * s1;
    const int64_t h = fqvit_layernorm_lift(variance);
    root[i] = static_cast<double>(variance) * exact_power_of_two(2 * h);  // at most 2^52: exact
    batch.exact[i] = {s1, variance, 0, h - c.shift - 31};
  }
  for (int g = 0; g < row_batch; g += double_lanes) store(root + g, square_root(load(root + g)));
  for (int64_t i = 0; i < rows; ++i) {
    FqVitRow& row = batch.exact[i];
    const int64_t h = row.unit + c.shift + 31;
    row.root = static_cast<int64_t>(root[i]);  // one too large if rounded up to an integer
    row.root -= row.root * row.root > mnq::shift_left(row.variance, 2 * h);
    row.root = most(row.root, 1);
    add_floats(batch, i, c);
  }
}

template <class Q, class Y>
static void fqvit_rows(const Q* q, Y* y, int64_t rows, const LayerNormConstants& c) {
  FqVitBatch batch;
  for (; rows > 0; rows -= row_batch, q += row_batch * c.columns, y += row_batch * c.columns) {
    const int64_t count = rows < row_batch ? rows : row_batch;
    batch.clamps = !is_whole_type<Y>(c);
    find_rows(q, count, c, batch);
    if (batch.clamps) {
      estimate_batch<true>(q, y, count, batch, c);
    } else {
      estimate_batch<false>(q, y, count, batch, c);
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t w = 0; w < c.wide_count; ++w) {
        const int64_t at = i * c.columns, j = c.wide[w];
        y[at + j] = static_cast<Y>(fqvit_exact_code(q + at, batch.exact[i], j, c));
      }
    }
  }
}

}  // namespace MNQ_PATH
}  // namespace mnq
