// Shapes of outputs before a session runs, for its memory plan: values of Definition::infer.
// -1 is a length that is not known; below that the same number is the same length, so that a
// batch axis stays one. An input without a known rank looks like a scalar, and so does the output.
#pragma once

#include "ops/native/kernel.h"

namespace mnq::infer {

inline Shape second(const std::vector<Shape>& inputs) { return inputs[1]; }

// (..., M, K) times (..., K, N), QLinear's weights included.
inline Shape product(const std::vector<Shape>& inputs) {
  Shape shape = inputs[0];
  if (shape.empty() || inputs[1].empty()) return {};
  shape.back() = inputs[1].back();
  return shape;
}

// qkv (B, N, 3, H, d) to (B, N, H, d), in windows too.
inline Shape packed_attention(const std::vector<Shape>& inputs) {
  const Shape& qkv = inputs[0];
  if (qkv.size() != 5) return {};
  return {qkv[0], qkv[1], qkv[3], qkv[4]};
}

// q (B, T, C) to (B, C).
inline Shape mean_tokens(const std::vector<Shape>& inputs) {
  const Shape& q = inputs[0];
  if (q.size() != 3) return {};
  return {q[0], q[2]};
}

// x (B, C, H, W) to (B, rows, columns, length): all but B are values of `flat`.
inline Shape patches(const std::vector<Shape>& inputs) {
  if (inputs[0].empty()) return {};
  return {inputs[0][0], -1, -1, -1};
}

}  // namespace mnq::infer
