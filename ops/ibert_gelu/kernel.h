// IBertGelu, the scalar core (SPEC.md beside this file; lines of its definition).
#pragma once

#include "ops/native/core.h"
#include "ops/requantize/kernel.h"

namespace mnq {

struct IBertGelu {
  int64_t b, c, n, one, m, e, lo, hi;
};

MNQ_CORE int64_t ibert_gelu(int64_t q, const IBertGelu& a) {
  const int64_t i = least(most(q, -q), -a.b) + a.b;
  const int64_t size = i * i + a.c;
  const int64_t t = q < 0 ? -size : q > 0 ? size : 0;  // the sign comes before the floor
  return clamp(rescale(q * ((t >> a.n) + a.one), a.m, a.e), a.lo, a.hi);
}

}  // namespace mnq
