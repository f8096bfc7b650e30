#pragma once

#include "ops/native/cpu/softmax_tables.h"
#include "ops/native/kernel.h"

namespace mnq {

// Attention of a method and form (ops/attention/SPEC.md). `packed`: q, k and v are one tensor
// (B, N, 3, H, d) and the output is (B, N, H, d).
template <SoftmaxMethod method, bool deferred, bool packed>
std::unique_ptr<Kernel> make_attention(const Node& node, const Path& path);

}  // namespace mnq
