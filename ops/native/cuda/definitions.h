// Kernels on the device, by operator.
#pragma once

#include <new>
#include <string>

#include "ops/native/kernel.h"

namespace mnq {

// Why no kernel runs on the current device; empty if kernels do.
std::string device_lacking();

// All that a kernel on a device may use of its host: a stream. Null is the device's own.
class StreamContext : public Context {
 public:
  explicit StreamContext(void* stream) : stream_(stream) {}
  void* stream() const override { return stream_; }

 private:
  void run_parallel(void (*)(void*, size_t), size_t, void*) override {
    throw std::logic_error("a kernel on a device asked for threads");
  }
  void* allocate(size_t) override { throw std::bad_alloc(); }

  void* stream_;
};

// The kernel of an operator; throws Refusal, also if there is none.
std::unique_ptr<Kernel> make_on_device(const Definition& definition, const Node& node);

// Runs a kernel on tensors of the host, and waits. `bytes`: of the output.
void run_on_device(const Kernel& kernel, std::vector<Tensor> inputs, size_t activations,
                   void* output, size_t bytes);

}  // namespace mnq
