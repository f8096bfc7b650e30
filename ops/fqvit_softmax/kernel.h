// FqVitSoftmax, the scalar core (SPEC.md beside this file; lines of its definition).
#pragma once

#include "ops/ibert_softmax/kernel.h"
#include "ops/native/core.h"

namespace mnq {

constexpr int64_t fqvit_zero_code = 15;  // the code of probability 0
constexpr int64_t fqvit_never = 63;      // the logarithm of an exponential of 0

// Lines 1 and 2: x with exp(S d) about x / (c * 2^30), for d <= 0; c < 2^23.
MNQ_CORE int64_t fqvit_exp(int64_t d, int64_t x0, int64_t b, int64_t c) {
  const IExp e = i_exp(d, x0, b, c);
  return shift_left(e.z, i_exp_n - e.k);
}

// Lines 4 to 6: L, about log2(row_sum / exp); row_sum >= exp >= 0, row_sum < 2^63.
MNQ_CORE int64_t negative_log2(int64_t row_sum, int64_t exp) {
  if (exp == 0) return fqvit_never;
  const int64_t ratio = round_half_even_divide(row_sum, exp);
  const int64_t last = bit_length(ratio) - 1;
  return last > 0 ? last + ((ratio >> (last - 1)) & 1) : 0;
}

// Line 7.
MNQ_CORE int64_t fqvit_softmax_code(int64_t log) { return least(log, fqvit_zero_code); }

}  // namespace mnq
