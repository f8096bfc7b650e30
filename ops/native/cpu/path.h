// The inner loops, compiled once per instruction set (cpu/path/). An operator's kernel, in the .cc
// files beside this one, is compiled once and calls them through the table of its path.
#pragma once

#include <string>
#include <vector>

#include "ops/native/cpu/jobs.h"

namespace mnq {

struct Path {
  const char* name;

  // Products (path/gemm.h). Rows of the left operand that a product reads at a time: the caller
  // keeps that many readable at any row it passes, by stepping back or by a copy.
  int64_t row_tile;
  // Bytes of a prepared row of k codes, a multiple of 64; 0 if rows of k codes are read as they are.
  int64_t (*prepared_stride)(int64_t k);
  void (*prepare)(const int8_t* a, int64_t stride, int64_t rows, int64_t k, void* prepared);
  // b (k, n), element (i, j) at b[i * row_stride + j * column_stride], into panels of 16 columns;
  // offsets (panels * 16): what the bias has to add to accumulators.
  void (*pack)(const int8_t* b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n,
               int8_t* panels, int32_t* offsets);
  void (*linear)(const LinearJob& job);

  void (*attend)(const AttentionJob& job);  // path/attention.h
  void (*requantize)(const RequantizeJob& job);  // path/requantize.h
  void (*layernorm)(const LayerNormJob& job);  // path/layernorm.h
  // Requantizes int8 rows divided by their norms; m and e are one number (path/l2_normalize.h).
  void (*l2_normalize)(const RequantizeJob& job);
  // Requantizes the sum of all rows, which fits 32 bits, to one row (path/mean_tokens.h).
  void (*sum_rows)(const RequantizeJob& job);

  // y[i] = table[x[i] + 128]; x and y may be the same (path/table.h).
  void (*look_up)(const int8_t* table, const int8_t* x, int8_t* y, int64_t n);
  int (*row_max)(const int8_t* x, int64_t n);  // n >= 1
};

// Paths that this CPU and build have, slowest first: portable, avx2, avx512, amx.
const std::vector<const Path*>& available_paths();

// The fastest available path, or the one that the environment variable MNQ_CPU_PATH names.
// Throws Refusal if it names none of the available ones.
const Path& chosen_path();
const Path& path_named(const std::string& name);  // the same for a given name

}  // namespace mnq
