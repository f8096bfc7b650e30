// Products of int8 matrices on the tensor cores, with what follows them until codes are stored.
#pragma once

#include "ops/native/cuda/host.h"

namespace mnq {

// y = clamp(rescale(a b + bias) [+ rescale(r]), lo, hi) for `batches` of `rows` rows, all of which
// count as one sequence of rows where operands broadcast.
struct ProductJob {
  const int8_t* a;  // (batches, rows, k)
  const int8_t* b;  // packed: (columns, k_padded), padded with zeros; else (batches, k, columns)
  int64_t batches, rows;
  int k, k_padded, columns;
  bool packed;
  const int32_t* bias;
  Places bias_places;
  Scale scale;
  Integers r;  // no data: no residual
  Scale residual_scale;
  Codes y;
};

constexpr int product_tile = 64;  // rows, columns and depth of a block's step

// Weights (k, n) of a node as `packed` reads them: columns and depth padded to whole tiles.
DeviceArray<int8_t> packed_weights(const int8_t* w, int64_t k, int64_t n);

void multiply(const ProductJob& job, void* stream);

std::unique_ptr<Kernel> make_device_qlinear(const Node& node, std::unique_ptr<Kernel> contract);
std::unique_ptr<Kernel> make_device_qlinear_add(const Node& node, std::unique_ptr<Kernel> contract);
std::unique_ptr<Kernel> make_device_qmatmul(const Node& node, std::unique_ptr<Kernel> contract);

}  // namespace mnq
