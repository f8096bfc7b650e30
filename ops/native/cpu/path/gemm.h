// Products of int8 rows with a packed int8 matrix, and what follows them (ops/qlinear/SPEC.md).
// The instruction set decides how operands are laid out; one of the four files below says how.
#pragma once

#include "ops/native/cpu/path/requantize.h"

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

// `Path::linear`.
static void linear(const LinearJob& job) {
  [[maybe_unused]] const ProductState state;
  linear_rows(job);
}

}  // namespace MNQ_PATH
}  // namespace mnq
