// IBertLayerNorm, the scalar core (SPEC.md beside this file; lines of its definition).
#pragma once

#include "ops/ivit_layernorm/kernel.h"  // layernorm_code: lines 5 and 6
#include "ops/native/core.h"

namespace mnq {

// Lines 3 and 4: F for the sum of squares V of d >> shift; V < 2^62.
MNQ_CORE int64_t ibert_layernorm_factor(int64_t variance, int64_t shift) {
  return power_of_two(31) / most(shift_left(isqrt(variance), shift), 1);
}

}  // namespace mnq
