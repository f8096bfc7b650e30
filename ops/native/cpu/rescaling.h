// Constants of requantizations, checked and laid out for the inner loops.
#pragma once

#include <algorithm>
#include <vector>

#include "ops/native/cpu/buffer.h"
#include "ops/native/cpu/jobs.h"
#include "ops/native/kernel.h"

namespace mnq {

// m and e of a node. `operand_bits`: of the integers that they rescale, 32 or at most 16.
class OwnedRescaling {
 public:
  OwnedRescaling() = default;
  // From constant inputs of equal shapes. Throws Refusal unless 1 <= e <= 62.
  OwnedRescaling(const Node& node, const char* m, const char* e, int operand_bits);

  const Shape& shape() const { return shape_; }
  bool is_scalar() const { return count(shape_) == 1; }
  // Throws Refusal unless it is one number or a vector of `columns`; `m` names it.
  void require_columns(const char* m, int64_t columns) const;
  // The values from `offset` on, as one number or as one per column.
  Rescaling at(int64_t offset, bool per_column) const;

 private:
  Shape shape_;
  Buffer<int32_t> m_, e_;
  Form form_ = Form::wide;
};

// Throws Refusal unless `to`, the element type of the output, is int8 or int16.
void require_codes(Type to);

// lo and hi of a node, one number each, within the element type `to`. Throws Refusal.
struct Limits {
  explicit Limits(const Node& node, const char* lo = "lo", const char* hi = "hi");
  Limits(const Node& node, Type to, const char* lo, const char* hi);
  int32_t lo, hi;
};

// lo and hi of a node where they may differ from part to part of its int8 output: one number each,
// or vectors of equal shapes. Throws Refusal.
class PartLimits {
 public:
  explicit PartLimits(const Node& node);

  const Shape& shape() const { return shape_; }
  bool is_scalar() const { return lo_.size() == 1; }
  int8_t lo(int64_t part) const { return lo_[is_scalar() ? 0 : part]; }
  int8_t hi(int64_t part) const { return hi_[is_scalar() ? 0 : part]; }
  const int8_t* lows() const { return lo_.data(); }
  const int8_t* highs() const { return hi_.data(); }
  // What no part passes.
  int8_t least() const { return *std::min_element(lo_.begin(), lo_.end()); }
  int8_t largest() const { return *std::max_element(hi_.begin(), hi_.end()); }

 private:
  Shape shape_;
  std::vector<int8_t> lo_, hi_;
};

}  // namespace mnq
