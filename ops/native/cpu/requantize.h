#pragma once

#include "ops/native/kernel.h"

namespace mnq {

// Requantize (ops/requantize/SPEC.md) and RequantizeAdd (ops/requantize_add/SPEC.md).
std::unique_ptr<Kernel> make_requantize(const Node& node, const Path& path);
std::unique_ptr<Kernel> make_requantize_add(const Node& node, const Path& path);

}  // namespace mnq
