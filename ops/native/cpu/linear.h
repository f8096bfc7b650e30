#pragma once

#include "ops/native/kernel.h"

namespace mnq {

// QLinear and QLinearAdd (ops/qlinear/SPEC.md).
std::unique_ptr<Kernel> make_qlinear(const Node& node, const Path& path);
std::unique_ptr<Kernel> make_qlinear_add(const Node& node, const Path& path);
// ops/qlinear_lut/SPEC.md
std::unique_ptr<Kernel> make_qlinear_lut(const Node& node, const Path& path);

}  // namespace mnq
