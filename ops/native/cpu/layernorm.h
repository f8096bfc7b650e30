// LayerNorm kernels (ops/ivit_layernorm, ops/ibert_layernorm, ops/fqvit_layernorm).
#pragma once

#include <memory>

#include "ops/native/kernel.h"

namespace mnq {

std::unique_ptr<Kernel> make_ivit_layernorm(const Node& node, const Path& path);
std::unique_ptr<Kernel> make_ibert_layernorm(const Node& node, const Path& path);
std::unique_ptr<Kernel> make_fqvit_layernorm(const Node& node, const Path& path);

}  // namespace mnq
