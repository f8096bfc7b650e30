// Attention on the device, of all methods, forms and layouts (ops/attention/SPEC.md).
#pragma once

#include "ops/native/cpu/attention.h"
#include "ops/native/cuda/host.h"

namespace mnq {

std::unique_ptr<Kernel> make_device_attention(const Node& node, std::unique_ptr<Kernel> contract,
                                              SoftmaxMethod method, bool deferred,
                                              AttentionLayout layout);

}  // namespace mnq
