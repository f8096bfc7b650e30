// FqVitLayerNorm, the scalar core (SPEC.md beside this file; lines of its definition).
#pragma once

#include "ops/native/core.h"

namespace mnq {

// What lines 1 and 2 find in a row.
struct FqVitRow {
  int64_t sum;       // s1
  int64_t variance;  // D
  int64_t root;      // sqrt(D) * 2^h
  int64_t unit;      // w
};

// h of line 2.
MNQ_CORE int64_t fqvit_layernorm_lift(int64_t variance) { return (62 - bit_length(variance)) / 2; }

// `squares` is the sum of q * q.
MNQ_CORE FqVitRow fqvit_layernorm_row(int64_t sum, int64_t squares, int64_t columns, int64_t p) {
  const int64_t variance = columns * squares - sum * sum;
  const int64_t h = fqvit_layernorm_lift(variance);
  return {sum, variance, most(isqrt(shift_left(variance, 2 * h)), 1), h - p - 31};
}

// x / 2^k to the nearest integer, ties to even; 0 <= k <= 31.
MNQ_CORE int64_t round_half_even_shift(int64_t x, int64_t k) {
  const int64_t q = x >> k, twice = (x - shift_left(q, k)) * 2, one = power_of_two(k);
  return q + (twice > one || (twice == one && (q & 1) != 0));
}

// Line 7 where D = 0.
MNQ_CORE int64_t fqvit_layernorm_bias(int64_t bq) { return round_half_even_shift(bq, 20); }

// Lines 3 to 7, before saturation.
MNQ_CORE int64_t fqvit_layernorm_raw(int64_t q, const FqVitRow& row, int64_t columns,
                                     int64_t mant, int64_t bq) {
  if (row.variance == 0) return fqvit_layernorm_bias(bq);
  const int64_t sign = mant < 0 ? -1 : 1;
  const int64_t a = shift_left(sign * mant, 31) / row.root;
  const int64_t n = clamp(8 - bit_length(a) - row.unit, 0, 31);
  const int64_t multiplier = least(shift(a, n + row.unit), 255);
  const int64_t g = n + row.unit + 8;
  const int64_t u = floor_divide(shift_left(sign * row.sum * a, most(g, 0)),
                                 shift_left(columns, most(-g, 0)));
  const int64_t offset = round_half_even_shift(shift(bq, n - 12) - u, 8);
  return round_half_even_shift(sign * multiplier * q + offset, n);
}

}  // namespace mnq
