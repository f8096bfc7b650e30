// Products of layers on GPUs of compute capability 9.0 (hopper.h).
#pragma once

#include "ops/native/cuda/product_job.h"

namespace mnq {

// Makes the current device ready. Once, when a node is made.
void allow_hopper_products();

// Whether the product was started: it is_whole, and its tiles leave no processor without one.
bool multiply_on_hopper(const ProductJob& job, int processors, void* stream);

}  // namespace mnq
