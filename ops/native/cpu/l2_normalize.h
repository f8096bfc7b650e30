#pragma once

#include "ops/native/kernel.h"

namespace mnq {

// L2Normalize (ops/l2_normalize/SPEC.md).
std::unique_ptr<Kernel> make_l2_normalize(const Node& node, const Path& path);

}  // namespace mnq
