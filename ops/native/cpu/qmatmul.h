#pragma once

#include "ops/native/kernel.h"

namespace mnq {

// QMatMul (ops/qmatmul/SPEC.md).
std::unique_ptr<Kernel> make_qmatmul(const Node& node, const Path& path);

}  // namespace mnq
