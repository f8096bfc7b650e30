#pragma once

#include "ops/native/kernel.h"

namespace mnq {

// MeanTokens (ops/mean_tokens/SPEC.md).
std::unique_ptr<Kernel> make_mean_tokens(const Node& node, const Path& path);

}  // namespace mnq
