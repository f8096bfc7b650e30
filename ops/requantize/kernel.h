// Requantize, the scalar core (SPEC.md beside this file).
#pragma once

#include "ops/native/core.h"

namespace mnq {

// round_half_up(z * m / 2^e); |z * m| < 2^62 + 2^61, 1 <= e <= 62.
MNQ_CORE int64_t rescale(int64_t z, int64_t m, int64_t e) {
  return (z * m + power_of_two(e - 1)) >> e;
}

}  // namespace mnq
