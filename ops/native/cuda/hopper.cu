#include "ops/native/cuda/hopper.h"

#include <cstdlib>

namespace mnq {
namespace {

#if defined(__CUDACC__)

using Encode = decltype(&cuTensorMapEncodeTiled);

// Of the driver, which is not linked; null if it has none.
Encode encode() {
  static const auto found = [] {
    const char* name = "cuTensorMapEncodeTiled";
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t error = cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &result);
#endif
    if (error != cudaSuccess) cudaGetLastError();  // the next call shall not find this error
    return reinterpret_cast<Encode>(function);
  }();
  return found;
}

// Why the current device has no warp groups; empty if it has.
std::string lacking_warp_groups() {
  const auto [major, minor] = device::capability();
  if (major != 9 || minor != 0) {
    return "a GPU of compute capability 9.0, found " + std::to_string(major) + "." +
           std::to_string(minor);
  }
  return encode() == nullptr ? "a driver of CUDA 12 or newer, found an older one" : "";
}

#else

std::string lacking_warp_groups() { return ""; }

#endif

}  // namespace

BoxMap box_map(const void* data, int64_t rows, int64_t bytes, int box_rows) {
#if defined(__CUDACC__)
  BoxMap map;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(bytes), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(bytes)};
  const cuuint32_t box[2] = {box_bytes, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult result =
      encode()(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(data), sizes, strides, box,
               steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error("CUDA: no map of a matrix of " + std::to_string(rows) + " rows of " +
                             std::to_string(bytes) + " bytes: error " + std::to_string(result));
  }
  return map;
#else
  return {static_cast<const int8_t*>(data), rows, bytes, box_rows};
#endif
}

bool wants_warp_groups() {
  const char* given = std::getenv("MNQ_CUDA_PATH");
  const std::string path = given == nullptr || *given == '\0' ? "mma" : given;
  if (path == "mma") return false;
  const std::string lacking =
      path == "wgmma" ? lacking_warp_groups() : "mma or wgmma, found '" + path + "'";
  if (lacking.empty()) return true;
  throw Refusal("MNQ_CUDA_PATH: expected " + lacking + "; unset it, or choose mma");
}

}  // namespace mnq
