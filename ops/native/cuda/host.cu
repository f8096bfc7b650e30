#include "ops/native/cuda/host.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace mnq {

namespace device {

#if defined(__CUDACC__)
Capability capability() {
  int device = 0;
  Capability found{};
  check_cuda(cudaGetDevice(&device));
  check_cuda(cudaDeviceGetAttribute(&found.major, cudaDevAttrComputeCapabilityMajor, device));
  check_cuda(cudaDeviceGetAttribute(&found.minor, cudaDevAttrComputeCapabilityMinor, device));
  return found;
}
std::string lacking() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    cudaGetLastError();  // the next call shall not find this error
    return std::string("expected a GPU, found none (") + cudaGetErrorString(error) +
           "); install its driver, or use the CPU";
  }
  const auto [major, minor] = capability();
  if (major >= 8) return "";
  return "expected a GPU of compute capability 8.0 or newer, found " + std::to_string(major) + "." +
         std::to_string(minor) + "; use the CPU";
}
int processors() {
  int device = 0, found = 0;
  check_cuda(cudaGetDevice(&device));
  check_cuda(cudaDeviceGetAttribute(&found, cudaDevAttrMultiProcessorCount, device));
  return found;
}
void* get(size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, bytes));
  return memory;
}
void release(void* memory) noexcept { cudaFree(memory); }
void copy_in(void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
}
void copy_out(void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}
#else
std::string lacking() { return ""; }
int processors() { return 2; }  // so few that small products take large tiles too
void* get(size_t bytes) { return ::operator new(bytes, std::align_val_t{256}); }
void release(void* memory) noexcept { ::operator delete(memory, std::align_val_t{256}); }
void copy_in(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void copy_out(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
#endif

}  // namespace device

Places places_of(const RowBroadcast& rows) {
  Places places{};
  const Shape &lengths = rows.lengths(), &strides = rows.strides();
  if (lengths.size() > Places::most_axes) {
    throw Refusal("inputs: expected at most 8 axes, found " + std::to_string(lengths.size() + 1));
  }
  places.column_step = rows.per_column() ? 1 : 0;
  if (rows.same_row()) return places;
  places.axes = static_cast<int>(lengths.size());
  std::copy(lengths.begin(), lengths.end(), places.lengths);
  std::copy(strides.begin(), strides.end(), places.strides);
  return places;
}

DeviceScale::DeviceScale(const Node& node, const char* m, const char* e)
    : name_(m),
      shape_(node.constant(m, Type::int32).shape),
      m_(node.constant(m, Type::int32)),
      e_(node.constant(e, Type::int32)) {}

Scale DeviceScale::of(const Shape& shape) const {
  return {m_.data(), e_.data(), places_of(RowBroadcast(name_, shape_, shape))};
}

}  // namespace mnq
