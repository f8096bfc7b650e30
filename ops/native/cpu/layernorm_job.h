// What one call of Path::layernorm works on. Plain data: files of every instruction set include it.
#pragma once

#include <cstdint>

#include "ops/native/cpu/jobs.h"

namespace mnq {

enum class LayerNormMethod { ivit, ibert, fqvit };

// Constants of a LayerNorm. Vectors have a value per column and are readable to 16 columns behind
// the last one. Columns that the fast forms do not cover are `wide`, and done one by one.
struct LayerNormConstants {
  LayerNormMethod method;
  int64_t columns;
  int32_t lo, hi;
  const int32_t* wide;  // their numbers
  int64_t wide_count;

  // As in the SPEC.md files; m is also `mant`, and shift also `p`.
  const int64_t* bq;
  const int32_t* m;
  const int32_t* e;
  int32_t shift;

  // IVit, IBert: a column is not wide if abs(bq) + 2^30 < 2^31 and e >= 33. Then line 6 is
  // (mulhi32(t, m) + half) >> high_shift with high_shift = e - 32 and half = 2^(e-33).
  const int32_t* narrow_bq;
  const int32_t* odd_m;  // m[j + 1] at j
  const int32_t* half;
  const int32_t* high_shift;

  // FqVit: mant and bq / 2^20 in float32; a column is wide if the latter reaches 2^12. Where mant
  // is 0 or a column does not count, slope is 2^-20, as good as nothing.
  const float* slope;
  const float* bias;                  // times 2^16
  float largest_slope, largest_bias;  // of the absolute values, the latter without 2^16
};

struct LayerNormJob {
  const void* q;  // rows lie one after the other
  Type q_type;    // int8 or int16
  void* y;
  Type y_type;  // int8 or int16
  int64_t rows;
  const LayerNormConstants* constants;
};

}  // namespace mnq
