// IBertSoftmax, the scalar core (SPEC.md beside this file; lines of its definition).
#pragma once

#include "ops/native/core.h"
#include "ops/requantize/kernel.h"

namespace mnq {

constexpr int64_t i_exp_n = 30;  // the largest number of halvings

// exp(S d) is about z * 2^-k / c.
struct IExp {
  int64_t z, k;
};

// i-exp, lines 2 to 4: 0 <= z, 0 <= k <= 30, for d <= 0 and x0 <= -1.
MNQ_CORE IExp i_exp(int64_t d, int64_t x0, int64_t b, int64_t c) {
  const int64_t p = most(d, i_exp_n * x0);
  const int64_t k = floor_divide(p, x0), r = p - k * x0;
  return {most(r * (r + b) + c, 0), k};
}

// Line 5: the 16-bit step. Beyond 62 a result is 0 already (z * m_p < 2^61).
MNQ_CORE int64_t ibert_softmax_step(IExp exp, int64_t m_p, int64_t e_p) {
  return least(rescale(exp.z, m_p, least(exp.k + e_p, 62)), 32767);
}

// Line 6, also of LutSoftmax (its line 3): F for the row's sum.
MNQ_CORE int64_t softmax_factor(int64_t sum) { return power_of_two(32) / sum; }

// Line 7, also of LutSoftmax (its line 4): the code of a weight u.
MNQ_CORE int64_t softmax_code(int64_t u, int64_t factor, int64_t shift, int64_t zp) {
  return ((u * factor) >> shift) - zp;
}

}  // namespace mnq
