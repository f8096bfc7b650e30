// An int32 constant of a softmax: one number, or one per head.
#pragma once

#include <initializer_list>

#include "ops/native/kernel.h"

namespace mnq {

class PerHead {
 public:
  // Of a shape (..., 1, H, 1, 1), every number from lo to hi. Throws Refusal.
  PerHead(const Node& node, const char* name, int64_t lo, int64_t hi);

  int64_t heads() const { return count(data_.shape); }
  int64_t operator[](int64_t head) const {
    return data_.as<int32_t>()[heads() == 1 ? 0 : head];
  }

  // `value`, if it is from lo to hi. Throws Refusal.
  static int64_t within(const char* name, int64_t value, int64_t lo, int64_t hi);

 private:
  const Tensor& data_;
};

// How many heads the constants of a softmax have; 1 if all are single numbers. Throws Refusal if
// two of them disagree.
int64_t common_heads(std::initializer_list<const PerHead*> constants);

}  // namespace mnq
