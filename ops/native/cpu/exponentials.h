// The exponentials of a softmax on its own, by distance to the row's maximum: what its scalar core
// gives for 8-bit scores when a session starts.
#pragma once

#include "ops/native/cpu/buffer.h"
#include "ops/native/cpu/softmax_tables.h"

namespace mnq {

class Exponentials {
 public:
  static constexpr int64_t scores = 256;

  // From the constants of the method's softmax operator. Throws Refusal if they are outside the
  // contract.
  Exponentials(const Node& node, SoftmaxMethod method);

  int64_t heads() const { return heads_; }  // 1: the same for all
  const int64_t* of(int64_t head) const { return values_.data() + head * scores; }
  int64_t largest() const { return largest_; }

 private:
  int64_t heads_ = 1, largest_ = 1;
  Buffer<int64_t> values_;
};

}  // namespace mnq
