// What LayerNorm computes once per row: exact sums and, for batches of rows, mean and factor.
#pragma once

#include "ops/ibert_layernorm/kernel.h"
#include "ops/native/cpu/layernorm_job.h"
#include "ops/native/cpu/path/layernorm_lanes.h"
#include "ops/native/cpu/path/row_sums.h"

namespace mnq {
namespace MNQ_PATH {

constexpr int row_batch = 16;  // divisions of 16 rows overlap; 16 rows of 1024 stay in the L1 cache

// Integers as doubles: below 2^53 they are exact, and so are floor(a / b) and floor(sqrt(a)) after
// the corrections that stand where they are used.
struct RowBatch {
  double sum[row_batch], squares[row_batch];  // of q and q * q
  int32_t mean[row_batch], factor[row_batch];
  bool too_wide[row_batch];  // root * F is 2^31: d * F may not fit 32 bits, and F is unsigned
};

// The codes of type Y are all of [lo, hi], which storing saturates to.
template <class Y>
MNQ_INNER bool is_whole_type(const LayerNormConstants& c) {
  return lanes > 1 && c.hi - c.lo == (1 << (8 * sizeof(Y))) - 1;
}

constexpr int batch_groups = row_batch / double_lanes;

// Lines 1 to 4 of IVitLayerNorm, and of IBertLayerNorm with shift = 0, for a whole batch.
template <LayerNormMethod method>
MNQ_INNER void find_factors(int64_t columns, RowBatch& rows) {
  const Doubles length = repeat(static_cast<double>(columns)), half = repeat(0.5);
  Doubles mean[batch_groups], variance[batch_groups], root[batch_groups];
  for (int g = 0; g < batch_groups; ++g) {
    const Doubles sum = load(rows.sum + g * double_lanes);
    // sum / C is a tie, or at least 1 / (2 C) > 2^-22 away from one: rounding it keeps the side.
    mean[g] = nearest_even(sum / length);
    // sum (q - mean)^2; every intermediate is an integer below 2^53.
    variance[g] =
        load(rows.squares + g * double_lanes) - mean[g] * (repeat(2.0) * sum - length * mean[g]);
  }
  Doubles numerator;
  if (method == LayerNormMethod::ivit) {
    for (int g = 0; g < batch_groups; ++g) root[g] = repeat(65536.0);
    bool moving = true;  // where a step changes nothing, no later one does
    for (int step = 0; step < 10 && moving; ++step) {
      moving = false;
#pragma GCC unroll 16
      for (int g = 0; g < batch_groups; ++g) {  // the groups' chains of divisions overlap
        const Doubles next = floor_of((root[g] + floor_of(variance[g] / root[g])) * half);
        moving |= !all_equal(next, root[g]);
        root[g] = next;
      }
    }
    numerator = repeat(2147483647.0);
  } else {
    for (int g = 0; g < batch_groups; ++g) {
      // The root of a number below n^2 may be rounded up to n.
      const Doubles s = floor_of(square_root(variance[g]));
      root[g] = larger(one_less_if_above(s, s * s, variance[g]), repeat(1.0));
    }
    numerator = repeat(2147483648.0);
  }
  double exact_mean[row_batch], exact_root[row_batch], exact_factor[row_batch];
  for (int g = 0; g < batch_groups; ++g) {
    store(exact_mean + g * double_lanes, mean[g]);
    store(exact_root + g * double_lanes, root[g]);
    store(exact_factor + g * double_lanes, floor_of(numerator / root[g]));
  }
  for (int i = 0; i < row_batch; ++i) {
    rows.mean[i] = static_cast<int32_t>(exact_mean[i]);
    rows.factor[i] = static_cast<int32_t>(static_cast<int64_t>(exact_factor[i]));
    rows.too_wide[i] = exact_root[i] * exact_factor[i] == 2147483648.0;
  }
}

}  // namespace MNQ_PATH
}  // namespace mnq
