// Products of int8 rows with a packed int8 matrix, and what follows them (ops/qlinear/SPEC.md).
// The instruction set decides how operands are laid out; one of the four files below says how.
#pragma once

#include "ops/native/cpu/path/requantize.h"
#include "ops/native/cpu/path/table.h"

#if defined(__AMX_INT8__)
#include "ops/native/cpu/path/gemm_amx.h"
#elif defined(__AVX512VNNI__)
#include "ops/native/cpu/path/gemm_avx512.h"
#elif defined(__AVX2__)
#include "ops/native/cpu/path/gemm_avx2.h"
#else
#include "ops/native/cpu/path/gemm_portable.h"
#endif

namespace mnq {
namespace MNQ_PATH {

#if !defined(__AMX_INT8__)
struct ProductState {};  // what has to live around `linear_rows`: nothing
#endif

// The codes of the job, which are still in the cache, through its table.
static void look_up_codes(const LinearJob& job) {
  const RequantizeJob& done = job.finish;
  const int64_t first = job.first_panel * panel_columns, end = job.last_panel * panel_columns;
  const int64_t columns = (end < done.columns ? end : done.columns) - first;
  int8_t* y = static_cast<int8_t*>(done.y) + first;
  look_up_rows(job.table, y, done.y_stride, done.rows, columns);
}

// `Path::linear`.
static void linear(const LinearJob& job) {
  [[maybe_unused]] const ProductState state;
  linear_rows(job);
  if (job.table != nullptr) look_up_codes(job);
}

}  // namespace MNQ_PATH
}  // namespace mnq
