// LutGelu, the scalar core (SPEC.md beside this file).
#pragma once

#include "ops/native/core.h"

namespace mnq {

MNQ_CORE int64_t lut_gelu(int64_t q, const int8_t* table) { return table[q + 128]; }

}  // namespace mnq
