// A packed right operand, and its product with rows on all threads.
#pragma once

#include "ops/native/cpu/buffer.h"
#include "ops/native/cpu/jobs.h"
#include "ops/native/cpu/path.h"
#include "ops/native/kernel.h"

namespace mnq {

class Packed {
 public:
  Packed() = default;
  Packed(const Path& path, int64_t k, int64_t n);

  // Packs b (k, n) with the given strides; bias() holds the offsets of the packing afterwards.
  void fill(const int8_t* b, int64_t row_stride, int64_t column_stride);
  int32_t* bias() const { return bias_.data(); }  // of n columns and zeros to a whole panel

  // Runs `job` on rows of k codes that follow each other; sets its operands and rows.
  void multiply(const int8_t* a, int64_t rows, const LinearJob& job, Context& context) const;

 private:
  const Path* path_ = nullptr;
  int64_t k_ = 0, n_ = 0;
  Buffer<int8_t> panels_;
  Buffer<int32_t> bias_;
};

}  // namespace mnq
