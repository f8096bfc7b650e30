// Softmax kernels (ops/ivit_softmax, ops/ibert_softmax, ops/fqvit_softmax, ops/lut_softmax).
#pragma once

#include <memory>

#include "ops/native/kernel.h"

namespace mnq {

std::unique_ptr<Kernel> make_ivit_softmax(const Node& node, const Path& path);
std::unique_ptr<Kernel> make_ibert_softmax(const Node& node, const Path& path);
std::unique_ptr<Kernel> make_fqvit_softmax(const Node& node, const Path& path);
std::unique_ptr<Kernel> make_lut_softmax(const Node& node, const Path& path);

}  // namespace mnq
