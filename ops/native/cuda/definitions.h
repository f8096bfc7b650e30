// Kernels on the device, by operator.
#pragma once

#include "ops/native/kernel.h"

namespace mnq {

// The kernel of an operator; throws Refusal, also if there is none.
std::unique_ptr<Kernel> make_on_device(const Definition& definition, const Node& node);

// Runs a kernel on tensors of the host, and waits. `bytes`: of the output.
void run_on_device(const Kernel& kernel, std::vector<Tensor> inputs, size_t activations,
                   void* output, size_t bytes);

}  // namespace mnq
