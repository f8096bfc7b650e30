// The kernels on the device but for attention, and what those share that go element by element, or
// row by row.
#pragma once

#include <algorithm>

#include "ops/native/cpu/softmax_tables.h"  // SoftmaxMethod
#include "ops/native/cuda/host.h"

namespace mnq {

using MakeOnDevice = std::unique_ptr<Kernel>(const Node& node, std::unique_ptr<Kernel> contract);

MakeOnDevice make_device_qlinear, make_device_qlinear_add, make_device_qlinear_lut;
MakeOnDevice make_device_qmatmul;                                 // product.cu
MakeOnDevice make_device_requantize, make_device_requantize_add;  // requantize.cu
MakeOnDevice make_device_gelu, make_device_row_gelu;              // gelu.cu
MakeOnDevice make_device_ivit_layernorm, make_device_ibert_layernorm;
MakeOnDevice make_device_fqvit_layernorm;                          // layernorm.cu
MakeOnDevice make_device_l2_normalize, make_device_mean_tokens, make_device_patches;  // tokens.cu
template <SoftmaxMethod method>
std::unique_ptr<Kernel> make_device_softmax(const Node& node,
                                            std::unique_ptr<Kernel> contract);  // softmax.cu

constexpr int element_threads = 256;  // of a block, a thread for each element
constexpr int row_warps = 4;          // of a block, a warp for each row

inline Launch by_element(int64_t elements) {
  return {blocks_of(elements, element_threads), 1, 1, element_threads};
}
inline Launch by_row(int64_t rows) {
  return {blocks_of(rows, row_warps), 1, 1, row_warps * warp_size};
}

MNQ_DEVICE int64_t own_element() { return block_x() * element_threads + thread(); }
MNQ_DEVICE int64_t own_row() { return block_x() * row_warps + warp(); }

// Where a node's codes go, within the widest of their limits.
inline Codes codes_of(const Node& node) {
  const Tensor &lo = node.constant("lo", Type::int32), &hi = node.constant("hi", Type::int32);
  const auto *low = lo.as<int32_t>(), *high = hi.as<int32_t>();
  return {nullptr, node.to, *std::min_element(low, low + count(lo.shape)),
          *std::max_element(high, high + count(hi.shape))};
}

inline Codes at(Codes codes, void* output) {
  codes.data = output;
  return codes;
}

}  // namespace mnq
