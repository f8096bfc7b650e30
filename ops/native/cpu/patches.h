#pragma once

#include "ops/native/kernel.h"

namespace mnq {

// Patches (ops/patches/SPEC.md).
std::unique_ptr<Kernel> make_patches(const Node& node, const Path& path);

}  // namespace mnq
