// What register.cc and node.cc share of onnxruntime's C interface.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_c_api.h>

#include <memory>
#include <string>

#include "ops/native/cpu/path.h"
#include "ops/native/kernel.h"

namespace mnq {

// The oldest interface that has everything used here; newer onnxruntimes serve it as well.
constexpr uint32_t api_version = 21;

struct Operator : OrtCustomOp {
  const OrtApi* api;
  const Definition* definition;
  bool on_device;  // of the CUDA provider: activations are on a GPU, constants are not
};

// A status of onnxruntime as an exception, for code between two of its callbacks.
struct Failure {
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status != nullptr) throw Failure{status};
}

template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

// Runs `body`; what it throws becomes a status, for no exception may leave a callback.
template <class F>
OrtStatus* guarded(const OrtApi& api, F&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const Refusal& refusal) {
    return api.CreateStatus(ORT_INVALID_ARGUMENT, refusal.what());
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, error.what());
  }
}

Shape shape_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info);

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel);
OrtStatus* compute_kernel(void* kernel, OrtKernelContext* context);
void destroy_kernel(void* kernel);

}  // namespace mnq
