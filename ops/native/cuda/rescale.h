// Requantization of 32-bit integers on the device.
#pragma once

#include "ops/native/cuda/host.h"
#include "ops/requantize/kernel.h"

namespace mnq {

// `rescale`. From e = 33 on the low half of the product decides nothing, and 32 bits do
// (ops/requantize/SPEC.md, high word).
MNQ_CORE int64_t rescale_word(int32_t z, int32_t m, int32_t e) {
  if (e < 33) return rescale(z, m, e);
  const auto high = static_cast<int32_t>((static_cast<int64_t>(z) * m) >> 32);
  return (high + (1 << (e - 33))) >> (e - 32);
}

MNQ_CORE int64_t rescale_at(int64_t z, const Scale& scale, int64_t row, int64_t column) {
  const int64_t at = place(scale.places, row, column);
  return rescale_word(static_cast<int32_t>(z), scale.m[at], scale.e[at]);
}

}  // namespace mnq
