// IVitGelu, the scalar core (SPEC.md beside this file; lines of its definition).
#pragma once

#include "ops/ivit_softmax/kernel.h"
#include "ops/native/core.h"
#include "ops/requantize/kernel.h"

namespace mnq {

constexpr int64_t ivit_gelu_n = 23;  // fractional bits of the exponential

struct IVitGelu {
  int64_t x0, numerator, m, e, lo, hi;
};

// Lines 4 to 6, for the exponentials of lines 2 and 3.
MNQ_CORE int64_t ivit_gelu_code(int64_t q, int64_t e1, int64_t e2, const IVitGelu& a) {
  const int64_t factor = a.numerator / least(e1 + e2, power_of_two(31) - 1);
  const int64_t sigmoid = (e1 * factor) >> 24;
  return clamp(rescale(q * sigmoid, a.m, a.e), a.lo, a.hi);
}

// `top` is the maximum of the row that q stands in.
MNQ_CORE int64_t ivit_gelu(int64_t q, int64_t top, const IVitGelu& a) {
  const int64_t e1 = shift_exp(q - top, a.x0, ivit_gelu_n);
  const int64_t e2 = shift_exp(-top, a.x0, ivit_gelu_n);
  return ivit_gelu_code(q, e1, e2, a);
}

}  // namespace mnq
