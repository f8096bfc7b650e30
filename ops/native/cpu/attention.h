#pragma once

#include "ops/native/cpu/softmax_tables.h"
#include "ops/native/kernel.h"

namespace mnq {

// Where an attention finds its codes (ops/attention/SPEC.md).
enum class AttentionLayout {
  separate,  // q, k and v (B, H, N, d), and so is the output
  packed,    // qkv (B, N, 3, H, d), the output (B, N, H, d)
  window,    // the same, by windows of tokens
};

// Attention of a method and form.
template <SoftmaxMethod method, bool deferred, AttentionLayout layout>
std::unique_ptr<Kernel> make_attention(const Node& node, const Path& path);

// `make_attention` of the layout `window`.
std::unique_ptr<Kernel> make_window_attention(const Node& node, const Path& path,
                                              SoftmaxMethod method, bool deferred);

}  // namespace mnq
