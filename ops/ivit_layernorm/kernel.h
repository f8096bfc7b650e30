// IVitLayerNorm, the scalar core (SPEC.md beside this file; lines of its definition).
#pragma once

#include "ops/native/core.h"
#include "ops/requantize/kernel.h"

namespace mnq {

// Lines 3 and 4: F for the sum of squares V >= 0. k stays at or above 64.
MNQ_CORE int64_t ivit_layernorm_factor(int64_t variance) {
  int64_t k = power_of_two(16);
  for (int step = 0; step < 10; ++step) {
    const int64_t next = (k + variance / k) >> 1;
    if (next == k) break;  // so would all that follow be
    k = next;
  }
  return (power_of_two(31) - 1) / k;
}

// Lines 5 and 6, also of IBertLayerNorm.
MNQ_CORE int64_t layernorm_code(int64_t d, int64_t factor, int64_t bq, int64_t m, int64_t e,
                                int64_t lo, int64_t hi) {
  return clamp(rescale(((d * factor) >> 1) + bq, m, e), lo, hi);
}

}  // namespace mnq
