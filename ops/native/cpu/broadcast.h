// Broadcasting of an operand against rows of a larger shape (numpy's rules).
#pragma once

#include "ops/native/kernel.h"

namespace mnq {

// Where each row (all axes but the last) of `shape` finds its row of an operand.
class RowBroadcast {
 public:
  // Throws Refusal, naming the operand, unless it broadcasts to `shape`.
  RowBroadcast(const char* name, const Shape& operand, const Shape& shape);

  // Elements from the operand's start to its row for row `row` of `shape`.
  int64_t offset(int64_t row) const;
  bool per_column() const { return per_column_; }  // its last axis is not repeated
  bool same_row() const { return same_row_; }      // every row finds the same one
  bool plain() const { return plain_; }            // it has `shape`: offset is row * columns
  // By leading axis of `shape`: its length, and the operand's elements from one entry to the next.
  const Shape& lengths() const { return lengths_; }
  const Shape& strides() const { return strides_; }

 private:
  Shape lengths_, strides_;  // of the leading axes of `shape`
  bool per_column_, same_row_, plain_;
};

}  // namespace mnq
