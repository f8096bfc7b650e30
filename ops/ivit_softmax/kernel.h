// IVitSoftmax, the scalar core (SPEC.md beside this file; lines of its definition).
#pragma once

#include "ops/native/core.h"

namespace mnq {

constexpr int64_t ivit_softmax_n = 15;  // fractional bits of the exponential

// ShiftExp, lines 2 to 4: about |x0| * 2^n * exp(S q); x0 <= -1. A positive q (only in IVitGelu)
// gives a negative k, hence the floor; its left shift stops at 40, far above 2^31.
MNQ_CORE int64_t shift_exp(int64_t q, int64_t x0, int64_t n) {
  const int64_t p = most(q + (q >> 1) - (q >> 4), n * x0);
  const int64_t k = floor_divide(p, x0), r = p - k * x0;
  const int64_t line = r - 2 * x0;
  return k < n ? shift_left(line, least(n - 1 - k, 40)) : line >> 1;
}

// Line 5: F for the row's sum of exponentials.
MNQ_CORE int64_t ivit_softmax_factor(int64_t sum) {
  const int64_t largest = power_of_two(31) - 1;
  return largest / least(sum, largest);
}

// Line 6: the code of an exponential.
MNQ_CORE int64_t ivit_softmax_code(int64_t e, int64_t factor, int64_t shift) {
  return (e * factor) >> shift;
}

}  // namespace mnq
