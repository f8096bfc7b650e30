// Sums of rows, requantized (ops/mean_tokens/SPEC.md).
#pragma once

#include "ops/native/cpu/jobs.h"
#include "ops/native/cpu/path/requantize.h"

namespace mnq {
namespace MNQ_PATH {

// Plain loops: compilers turn them into the vectors of each instruction set.
template <class Q>
MNQ_INNER void add_rows(const void* z, int64_t at, int64_t stride, int64_t rows, int64_t columns,
                        int32_t* sums) {
  const Q* from = static_cast<const Q*>(z) + at;
  for (int64_t i = 0; i < rows; ++i, from += stride) {
    for (int64_t j = 0; j < columns; ++j) sums[j] += from[j];
  }
}

// `Path::sum_rows`: blocks of columns whose sums stay in the first-level cache.
static void sum_rows(const RequantizeJob& job) {
  constexpr int64_t block = 512;
  for (int64_t j = 0; j < job.columns; j += block) {
    alignas(64) int32_t sums[block] = {};
    const int64_t columns = job.columns - j < block ? job.columns - j : block;
    if (job.z_type == Type::int8) {
      add_rows<int8_t>(job.z, j, job.z_stride, job.rows, columns, sums);
    } else {
      add_rows<int16_t>(job.z, j, job.z_stride, job.rows, columns, sums);
    }
    finish(job, sums, block, 0, 1, j, columns);
  }
}

}  // namespace MNQ_PATH
}  // namespace mnq
