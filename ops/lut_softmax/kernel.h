// LutSoftmax, the scalar core (SPEC.md beside this file; lines of its definition).
#pragma once

#include "ops/ibert_softmax/kernel.h"  // softmax_factor and softmax_code: lines 3 and 4
#include "ops/native/core.h"

namespace mnq {

// Lines 1 and 2: the weight of d = q - max, -255 <= d <= 0.
MNQ_CORE int64_t lut_softmax_weight(const int32_t* table, int64_t base, int64_t d) {
  return table[base - d];
}

}  // namespace mnq
