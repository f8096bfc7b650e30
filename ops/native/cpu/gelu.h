// GELU kernels (ops/ivit_gelu, ops/ibert_gelu, ops/lut_gelu).
#pragma once

#include <memory>

#include "ops/native/kernel.h"

namespace mnq {

std::unique_ptr<Kernel> make_ivit_gelu(const Node& node, const Path& path);
std::unique_ptr<Kernel> make_ibert_gelu(const Node& node, const Path& path);
std::unique_ptr<Kernel> make_lut_gelu(const Node& node, const Path& path);

}  // namespace mnq
